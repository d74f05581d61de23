"""Get a data set: `python launch/data.py --dataset cifar10 --data-root data`."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from autosparse.tasks import arrays


@dataclass(frozen=True)
class Arguments:
    """Download data sets and write each as DATA_ROOT/<name>.npz, which is what jobs read.

    Run it where there is a network; a ready .npz in that folder is taken as it is.
    """

    dataset: Annotated[tuple[str, ...], tyro.conf.arg(aliases=["--datasets"])]
    """One or several of mnist, fashion-mnist, cifar10, cifar100, tiny-imagenet and cifar10-16, made from cifar10."""
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
