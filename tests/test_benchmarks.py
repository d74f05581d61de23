"""A tiny version of each benchmark runs and prints its table."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

QUICK = ("training", "store", "mixing", "select", "sparse", "ranks")  # The others are part of `make test-long`.
CASES = {  # options, and a row or a limit that is printed
    "training": ("--dataset digits --workers 0 --repeats 1 --steps 2 --pairs 1", "| DataLoader, 0 workers |"),
    "criteria": (
        "--networks lenet-300-100 --criteria random synflow --batches 1 --batch-size 10 --rounds 2 --sparsity 0.9999",
        "| synflow | | the scores do not tell the weights apart: ",
    ),
    "lookahead": (
        "--networks gpt --steps 2 --rounds 2 --probe-repeats 1 --repeats 1 --large lenet-300-100 --folder FOLDER",
        "- gpt, short-irp: under 5% more than as many plain steps: ",
    ),
    "large": ("--network resnet18 --steps 1 --batch-size 4", "GB, whole |"),
    "irp_gpu": (
        "--device cpu --network lenet-300-100 --dataset digits --images 256 --batch-size 64 --workers 1 --repeats 1",
        "- 5 times a DataLoader",
    ),
    "prune_large": (
        "--network lenet-300-100 --fit-steps 2 --batches 1 --batch-size 8 --folder FOLDER",
        "- within 3 GiB beside the model",
    ),
    "store": ("--triples 100000 --repeats 1 --folder FOLDER", "- writing at 0.8"),
    "loader": (
        "--triples 20000 --batch-sizes 256 --record 64 --peer-triples 2000 --peer-seconds 0.1 --repeats 1 --workers 1 "
        "--folder FOLDER",
        "| WebDataset",
    ),
    "mixing": ("--network lenet-300-100 --batch-sizes 1024 --batches 2", "| full shuffle |"),
    "score": (
        "--parameters 100000 --resolution 64 --sample 1000 --resnet-sample 2 --repeats 1 --folder FOLDER",
        "| the lookup table | 100,000 |",
    ),
    "samples": ("--samples 4096 --steps 4 --seeds 0 --folder FOLDER", "- 4,096: MSE higher by less than the deviation"),
    "select": ("--scores 100000 --repeats 1", "- at 1%, 5 times faster"),
    "sparse": (
        "--network lenet-300-100 --width 64 --repeats 1 --folder FOLDER",
        "- at 90%, a file of at most 20% of the dense one: ",
    ),
    "scale": (
        "--sizes 1e5 --batch-size 1024 --enough 0 --fit --fit-steps 2 --folder FOLDER",
        "- fit and validation within 2 GiB",
    ),
    "ranks": ("--writers 2 --shard 4096 --masks 1 --files 300 --folder FOLDER", "- both wrote the same bytes: met"),
    "cluster": (
        "--dataset digits --networks lenet-300-100 --epochs 1 --repeats 1 --no-slurm --folder FOLDER",
        "- checkpoints under 2 per cent",
    ),
}


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.long) for name in CASES]
)
def test_tiny(name: str, tmp_path: Path) -> None:
    arguments, expected = CASES[name]
    command = [sys.executable, "-m", f"benchmarks.{name}", *arguments.replace("FOLDER", str(tmp_path)).split()]
    own = os.environ | {"TORCHDYNAMO_DISABLE": "1"}  # compiling is tested elsewhere
    done = subprocess.run(command, cwd=ROOT, env=own, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"command   python -m benchmarks.{name} --")
    assert expected in done.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.long
def test_what_a_gpu_is_for_runs_in_turn_and_what_takes_too_long_is_stopped(tmp_path: Path) -> None:
    options = f"--device cpu --dataset digits --parameters 20000 --minutes 0.02 --output {tmp_path}/gpu.md".split()
    command = [sys.executable, "-m", "benchmarks.gpu", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    written = (tmp_path / "gpu.md").read_text()
    for name in ("irp_gpu", "workers", "score", "scale"):
        assert f"## {name}\n" in written
        assert f"{name} was stopped at its share of 0 s" in done.stdout
