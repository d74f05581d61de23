"""`python -m autosparse.store info|verify|export PATH`: inspect, check or export a triple store."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from autosparse.command import run
from autosparse.errors import UserError
from autosparse.sizes import format_size
from autosparse.store.export import export
from autosparse.store.reader import TripleStore
from autosparse.store.verify import problems


@dataclass(frozen=True)
class Arguments:
    """Inspect, check or export a triple store."""

    action: Annotated[Literal["info", "verify", "export"], tyro.conf.Positional]
    """info: print its size, layout and state. verify: read every byte and check that the arrays agree; exit code 2 if
    they do not. export: write theta, grad and survival to one file."""
    path: Annotated[str, tyro.conf.Positional]
    """The store, or the folder of the run that made it; a path or an s3:// URL."""
    to: Annotated[str, tyro.conf.Positional] = ""
    """export: a file that ends in .npz, .parquet or .zarr.zip."""


def main(a: Arguments) -> None:
    """Run the action."""
    if a.action == "export" and not a.to:
        raise UserError(f"export needs a target: python -m autosparse.store export {a.path} OUT.npz")
    if a.to and a.action != "export":
        raise UserError(f"{a.action} takes one path, got {a.to!r} as well")
    {"info": _info, "verify": _verify, "export": _export}[a.action](a)


def _info(a: Arguments) -> None:
    store = TripleStore.open(a.path, unfinished=True)
    print(f"path         {store.storage}")
    print(f"complete     {'yes' if store.complete else 'no'}")
    print(f"parameters   {len(store):,} in {len(store.layout.layers)} layers")
    print(f"iterations   {len(store.densities) - 1} of {store.iterations}")
    print(f"density      {store.densities[-1]:.6f}" if store.densities else "density      -")
    print(f"size         {format_size(store.nbytes)} in {len(store.files)} files")
    print(f"shards       {store.grid.shards} an array, of {store.grid.shard:,} in chunks of {store.grid.chunk:,}")
    print(f"fingerprint  {store.fingerprint}")
    print(f"run          {json.dumps(store.run)}")


def _verify(a: Arguments) -> None:
    store = TripleStore.open(a.path, unfinished=True)
    found = problems(store)
    for line in found:
        print(line, file=sys.stderr)
    if found:
        raise UserError(f"{store.storage}: {len(found)} problem{'s' * (len(found) > 1)}")
    done = f"{max(len(store.densities) - 1, 0)} of {store.iterations} iterations"
    print(f"{store.storage}: {'whole' if store.complete else f'unfinished ({done}), what is there is whole'}")


def _export(a: Arguments) -> None:
    store = TripleStore.open(a.path)
    export(store, Path(a.to))
    print(f"{a.to}: {len(store):,} triples, {format_size(Path(a.to).stat().st_size)}")


if __name__ == "__main__":
    run(Arguments, main)
