"""Stores that earlier versions have written: compressed, with a checksum of another kind."""

import json
from pathlib import Path

import numpy as np
import pytest
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec

from autosparse.errors import StoreError
from autosparse.store import TripleStore
from autosparse.store.__main__ import Arguments, main
from autosparse.store.convert import convert
from autosparse.store.schema import Ledger
from autosparse.store.storage import Folder
from tests.conftest import tree
from tests.store.drawn import draw, write

RUN = draw(30_011, columns=("probe-theta",))


@pytest.fixture
def older(tmp_path: Path) -> Path:
    """As schema 4 had it."""
    write(tmp_path / "s", RUN)
    store, old = TripleStore.open(tmp_path / "s"), tmp_path / "older" / "triples.zarr"
    about = json.loads((tmp_path / "s" / "zarr.json").read_text())["attributes"] | {"schema": 4}
    group = zarr.create_group(old, zarr_format=3, attributes=about)
    packed = [ZstdCodec(level=1, checksum=True), Crc32cCodec()]
    values = {
        "theta": store.theta(),
        "grad": store.grad(),
        "survival": store.survival(),
        "alive": np.stack([np.packbits(store.alive(i), bitorder="little") for i in (1, 2, 3)]),
        "probe-theta": np.full((3, len(store)), np.nan, np.float32),
    }
    for i in range(3):
        seen = store.probe("probe-theta", i)
        values["probe-theta"][i, : len(seen)] = seen
    for name, array in values.items():
        group.create_array(name, data=array, compressors=packed)
    sizes = {str(path.relative_to(old)): {"size": path.stat().st_size} for path in old.rglob("*") if path.is_file()}
    Ledger(sizes, store.densities).write(Folder(old))
    (old / "complete").write_text("of then")
    return old.parent


def test_it_is_refused_with_the_command_and_the_command_makes_the_same_store(older: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"has schema 4, this version reads 5; python -m autosparse\.store convert"):
        TripleStore.open(older)
    main(Arguments("convert", str(older), str(tmp_path / "new")))
    assert tree(tmp_path / "new") == tree(tmp_path / "s")


def test_what_is_not_complete_or_no_store_is_refused(older: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be converted onto itself; give another folder"):
        convert(str(older), str(older / "triples.zarr"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    with pytest.raises(StoreError, match=r"full is not empty and no triple store; choose another path"):
        convert(str(older), str(tmp_path / "full"))
    (older / "triples.zarr" / "theta" / "c" / "0").unlink()
    with pytest.raises(StoreError, match="theta/c/0 is missing or cut; run the IRP again"):
        convert(str(older), str(tmp_path / "new"))
    (older / "triples.zarr" / "complete").unlink()
    with pytest.raises(StoreError, match="only complete ones are converted"):
        convert(str(older), str(tmp_path / "new2"))
