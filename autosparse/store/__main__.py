"""`python -m autosparse.store info|verify PATH`: what is in a store, and whether it is whole."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from autosparse.command import run
from autosparse.errors import UserError
from autosparse.store.reader import TripleStore
from autosparse.store.verify import problems


@dataclass(frozen=True)
class Arguments:
    """Look into a triple store."""

    action: Annotated[Literal["info", "verify"], tyro.conf.Positional]
    """info: what is in it. verify: reads every byte and checks that the arrays agree; exit code 2 if not."""
    path: Annotated[Path, tyro.conf.Positional]
    """The store, or the folder of the run that made it."""


def main(arguments: Arguments) -> None:
    """Print what was asked for."""
    store = TripleStore.open(arguments.path, unfinished=True)
    if arguments.action == "verify":
        found = problems(store)
        for line in found:
            print(line, file=sys.stderr)
        if found:
            raise UserError(f"{store.path}: {len(found)} problem{'s' * (len(found) > 1)}")
        done = f"{len(store.densities) - 1} of {store.iterations} iterations"
        print(f"{store.path}: {'whole' if store.complete else f'unfinished ({done}), what is there is whole'}")
        return
    size = sum((store.path / name).stat().st_size for name in store.files)
    print(f"path         {store.path}")
    print(f"complete     {'yes' if store.complete else 'no'}")
    print(f"parameters   {len(store):,} in {len(store.layout.layers)} layers")
    print(f"iterations   {len(store.densities) - 1} of {store.iterations}")
    print(f"density      {store.densities[-1]:.6f}" if store.densities else "density      -")
    print(f"size         {size / 1e6:.1f} MB in {len(store.files)} files, {store.grid.shards} shards an array")
    print(f"fingerprint  {store.fingerprint}")
    print(f"run          {json.dumps(store.run)}")


if __name__ == "__main__":
    run(Arguments, main)
