"""Compare what two commits compute: `python -m benchmarks.same_results OLD [NEW]`.

Runs the demo and one small run of each kind at both commits. Compares byte for byte the shards of the stores,
histories, initial states, masks, networks and lookup tables of AutoS, and the tables of the report. Files that hold
times, versions or configuration are not compared. Exit code 1 if anything differs.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from autosparse.command import run
from autosparse.errors import UserError
from benchmarks.common import heading, row, table

ROOT = Path(__file__).parents[1]
_BYTES = ("triples.zarr/*/c/**/*", "history.json", "*.safetensors", "report.md")
_TEXT = "--task text --layers 1 --heads 2 --width 16 --context 16 --epochs 1 --learning-rate 0.001"
_COMMANDS = (
    "demo",
    f"irp {_TEXT} --criteria magnitude --iterations 2 --probe-steps 3 --probe-columns probe-gradient probe-theta",
    "irp --dataset digits --criteria grasp --schedule linear --iterations 3 --epochs 2 --rewind-epoch 1",
    "prune --dataset digits --epochs 2 --criteria gmp rigl synflow npb short-irp lookahead --sparsities 0.95 --seeds 1",
    "prune --dataset digits --epochs 1 --criteria snip --sanity shuffled reinitialized inverted --seeds 1",
    f"prune {_TEXT} --criteria random-erk snip-probe pretrained gmp --sparsities 0.9 --seeds 1",
)
_RESULTS = ("kept", "layer_densities", "history")  # of result.json


@dataclass(frozen=True)
class Arguments:
    """Compare what two commits compute."""

    old: Annotated[str, tyro.conf.Positional]
    """A commit."""
    new: Annotated[str, tyro.conf.Positional] = "HEAD"
    """Another."""


def main(a: Arguments) -> None:
    """Run both, compare."""
    heading()
    with tempfile.TemporaryDirectory(prefix="autosparse-same-") as scratch:
        found = [_results(commit, Path(scratch, name)) for commit, name in ((a.old, "old"), (a.new, "new"))]
    kinds = sorted({_kind(name) for each in found for name in each})
    table("what", "files", f"the same in {a.old} and {a.new}")
    differing = 0
    for kind in kinds:
        old, new = ({name: digest for name, digest in each.items() if _kind(name) == kind} for each in found)
        same = sum(old.get(name) == digest for name, digest in new.items())
        differing += len(old | new) - same
        row(kind, str(len(old | new)), str(same))
    if differing:
        sys.exit(1)


def _results(commit: str, folder: Path) -> dict[str, str]:
    """Run all commands at a commit and return the digests of their files."""
    folder.mkdir()
    archive = subprocess.run(["git", "-C", str(ROOT), "archive", commit], capture_output=True)
    if archive.returncode:
        raise UserError(f"no commit {commit}: {archive.stderr.decode().strip()}")
    code, output = folder / "code", folder / "runs"
    code.mkdir()
    subprocess.run(["tar", "-x", "-C", str(code)], input=archive.stdout, check=True)
    environment = os.environ | {"PYTHONPATH": str(code)}
    for words in _COMMANDS:
        name, *options = words.split()
        command = [sys.executable, f"launch/{name}.py", *options, "--cluster", "local", "--output", str(output)]
        subprocess.run(command, cwd=code, env=environment, check=True, stdout=subprocess.DEVNULL)
    return digests(output)


def digests(output: Path) -> dict[str, str]:
    """Return the digest of each result below a folder, by its path."""
    found = {path: path.read_bytes() for pattern in _BYTES for path in output.rglob(pattern) if path.is_file()}
    for path in output.rglob("result.json"):
        result = json.loads(path.read_text())
        found[path] = json.dumps({key: result[key] for key in _RESULTS}).encode()
    here = str(output).encode()  # which the report names
    return {
        str(path.relative_to(output)): hashlib.sha256(data.replace(here, b"")).hexdigest()
        for path, data in found.items()
    }


def _kind(name: str) -> str:
    """Return the kind of a file: the array of a shard, or the file's name."""
    parts = Path(name).parts
    return f"store: {parts[parts.index('c') - 1]}" if "c" in parts else parts[-1]


if __name__ == "__main__":
    run(Arguments, main)
