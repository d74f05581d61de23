"""`python -m autosparse.store info|verify|export|copy|convert PATH`: look into a store, check it, take it elsewhere."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from autosparse.command import run
from autosparse.errors import UserError
from autosparse.sizes import format_size
from autosparse.store.convert import convert
from autosparse.store.copy import copy
from autosparse.store.export import export
from autosparse.store.reader import TripleStore
from autosparse.store.verify import problems


@dataclass(frozen=True)
class Arguments:
    """Look into a triple store, check it, or take it elsewhere."""

    action: Annotated[Literal["info", "verify", "export", "copy", "convert"], tyro.conf.Positional]
    """info: what is in it. verify: reads every byte and checks that the arrays agree; exit code 2 if not.
    export: theta, grad and survival into one file. copy: the whole store to another storage or with other shards.
    convert: a store that an earlier version has written."""
    path: Annotated[str, tyro.conf.Positional]
    """The store, or the folder of the run that made it; a path or an s3:// URL."""
    to: Annotated[str, tyro.conf.Positional] = ""
    """export: a file that ends in .npz, .parquet or .zarr.zip. copy, convert: a path or an s3:// URL."""
    shard: int = 0
    """copy: number of parameters in a shard. Default: as in the store."""


def main(a: Arguments) -> None:
    """Do what was asked for."""
    goes_elsewhere = a.action in ("export", "copy", "convert")
    if goes_elsewhere and not a.to:
        example = "OUT.npz" if a.action == "export" else "s3://BUCKET/triples.zarr"
        raise UserError(f"{a.action} needs a target: python -m autosparse.store {a.action} {a.path} {example}")
    if a.to and not goes_elsewhere:
        raise UserError(f"{a.action} takes one path, got {a.to!r} as well")
    if a.shard and a.action != "copy":
        raise UserError("a shard is for copy")
    {"info": _info, "verify": _verify, "export": _export, "copy": _copy, "convert": _convert}[a.action](a)


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


def _copy(a: Arguments) -> None:
    _made(copy(TripleStore.open(a.path), a.to, a.shard or None))


def _convert(a: Arguments) -> None:
    _made(convert(a.path, a.to))


def _made(made: TripleStore) -> None:
    print(f"{made.storage}: {len(made):,} triples, {format_size(made.nbytes)} in {len(made.files)} files")


if __name__ == "__main__":
    run(Arguments, main)
