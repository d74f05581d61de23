"""Inspect, check or export a triple store: `autosparse store info|verify|export PATH`."""

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


@dataclass(frozen=True)
class Arguments:
    """Inspect, check or export a triple store.

    Examples:
      autosparse store info runs/irp/lenet-300-100_mnist5k_snip_n20_s0
      autosparse store verify runs/irp/lenet-300-100_mnist5k_snip_n20_s0
      autosparse store export runs/irp/lenet-300-100_mnist5k_snip_n20_s0 triples.parquet
    """

    action: Annotated[Literal["info", "verify", "export"], tyro.conf.Positional]
    """info: print its size, layout and state. verify: read every byte and check that the arrays agree; exit code 2 if
    they do not. export: write theta, grad and survival to one file."""
    path: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PATH")]
    """The store, or the folder of the run that made it; a path or an s3:// URL."""
    to: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="[FILE]")] = ""
    """export: a file that ends in .npz, .parquet or .zarr.zip."""


def main(a: Arguments) -> None:
    """Run the action."""
    if a.action == "export":
        if not a.to:
            raise UserError(f"export needs a target: autosparse store export {a.path} OUT.npz")
        store = TripleStore.open(a.path)
        export(store, Path(a.to))
        print(f"{a.to}: {len(store):,} triples, {format_size(Path(a.to).stat().st_size)}")
        return
    if a.to:
        raise UserError(f"{a.action} takes one path, got {a.to!r} as well")
    store = TripleStore.open(a.path, unfinished=True)
    if a.action == "info":
        _print_info(store)
        return
    lines = store.problems()
    for line in lines:
        print(line, file=sys.stderr)
    if lines:
        raise UserError(f"{store.storage}: {len(lines)} problem{'s' * (len(lines) > 1)}")
    done = f"{max(len(store.densities) - 1, 0)} of {store.iterations} iterations"
    print(f"{store.storage}: {'whole' if store.complete else f'unfinished ({done}), committed files are whole'}")


def _print_info(store: TripleStore) -> None:
    size = sum(entry["size"] for entry in store.ledger.files.values())
    print(f"path         {store.storage}")
    print(f"complete     {'yes' if store.complete else 'no'}")
    print(f"parameters   {len(store):,} in {len(store.layout.layers)} layers")
    print(f"iterations   {len(store.densities) - 1} of {store.iterations}")
    print(f"density      {store.densities[-1]:.6f}" if store.densities else "density      -")
    print(f"size         {format_size(size)} in {len(store.ledger.files)} files")
    print(f"shards       {store.grid.shards} per array, of {store.grid.shard:,} in chunks of {store.grid.chunk:,}")
    print(f"fingerprint  {store.fingerprint}")
    print(f"run          {json.dumps(store.run)}")


if __name__ == "__main__":
    run(Arguments, main)
