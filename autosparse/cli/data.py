"""Get a data set: `autosparse data --dataset cifar10 --data-root data`."""

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from autosparse.command import choices
from autosparse.tasks import arrays

_NAMES = (*arrays.FETCHED, *arrays.DERIVED)


@dataclass(frozen=True)
class Arguments:
    """Download data sets and write each as DATA_ROOT/<name>.npz, which is what jobs read.

    Run it where there is a network; a ready .npz in that folder is taken as it is.

    Examples:
      autosparse data --dataset cifar10
      autosparse data --datasets mnist fashion-mnist --data-root data
    """

    dataset: Annotated[tuple[str, ...], choices(_NAMES, alias="--datasets")]
    """Data sets by name; cifar10-16 is made from cifar10."""
    data_root: Path | None = None
    """Folder of the .npz files. Default: $AUTOSPARSE_DATA, or else data."""


def main(a: Arguments) -> None:
    """Get them."""
    for name in a.dataset:
        path = arrays.fetch(name, a.data_root or arrays.default_root())
        if path is None:
            print(f"{name} comes with a library, there is nothing to get", file=sys.stderr)
        else:
            print(path)
    where = ("--data-root", str(a.data_root)) if a.data_root else ()
    print(f"next: {shlex.join(('autosparse', 'irp', '--dataset', a.dataset[0], *where))}", file=sys.stderr)
