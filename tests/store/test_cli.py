"""`python -m autosparse.store`: what it prints, writes and refuses."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import zarr
from zarr.storage import ZipStore

from autosparse.command import run
from autosparse.store import TripleStore
from autosparse.store.__main__ import Arguments, main
from tests.conftest import Capture
from tests.store.helpers import flip, write
from tests.store.test_writer import LAYOUT, RUN, SHARD, SIZE, N

Command = Callable[..., tuple[int, str, str]]
ARRAYS = {"theta": RUN.theta.numpy(), "grad": RUN.grad.numpy(), "survival": RUN.survival}
NAMES, SIZES = [layer.name for layer in LAYOUT.layers], [layer.size for layer in LAYOUT.layers]
DENSITIES = [mask.density for mask in RUN.masks]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "triples.zarr"
    write(path, RUN, SHARD)
    return path


@pytest.fixture
def command(capsys: Capture) -> Command:
    def call(*arguments: object) -> tuple[int, str, str]:
        code = 0
        try:
            run(Arguments, main, [str(argument) for argument in arguments])
        except SystemExit as stop:
            code = int(stop.code or 0)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


def test_info_prints_the_content_of_a_store(store: Path, command: Command) -> None:
    code, out, _ = command("info", store.parent)
    assert code == 0
    assert re.search(r"complete +yes", out)
    assert f"parameters   {SIZE:,} in 2 layers" in out
    assert f"iterations   {N} of {N}" in out
    assert f"shards       5 per array, of {SHARD:,} in chunks of {SHARD:,}" in out
    assert TripleStore.open(store).fingerprint in out


def test_verify_names_array_shard_and_chunk(store: Path, tmp_path: Path, command: Command) -> None:
    assert command("verify", store) == (0, f"{store}: whole\n", "")
    write(tmp_path / "s", RUN, SHARD, until=2)
    assert re.search(r"complete +no", command("info", tmp_path / "s")[1])
    out = command("verify", tmp_path / "s")[1]
    assert out.endswith(f"unfinished (1 of {N} iterations), committed files are whole\n")
    write(tmp_path / "s", RUN, SHARD)
    for name in ("grad/c/3", "alive/c/1/0"):
        (tmp_path / "s" / name).write_bytes(flip((tmp_path / "s" / name).read_bytes(), 26))
    code, _, err = command("verify", tmp_path / "s")
    assert code == 2
    assert "grad/c/3 is damaged (checksum), chunk 0;" in err
    assert "alive/c/1/0 is damaged (checksum), chunk 0;" in err
    assert err.endswith("2 problems\n")


def test_export_to_npz_and_parquet_holds_all_arrays(store: Path, tmp_path: Path, command: Command) -> None:
    code, out, err = command("export", store, tmp_path / "out.npz")
    assert (code, err) == (0, "")
    assert out.startswith(f"{tmp_path / 'out.npz'}: {SIZE:,} triples, ")
    with np.load(tmp_path / "out.npz", allow_pickle=False) as saved:
        assert all(np.array_equal(saved[name], values) for name, values in ARRAYS.items())
        assert saved["survival"].dtype == np.uint8
        assert saved["layer_names"].tolist() == NAMES
        assert saved["layer_sizes"].tolist() == SIZES
        assert saved["densities"].tolist() == DENSITIES
    assert command("export", store, tmp_path / "out.parquet")[0] == 0
    table = pyarrow.parquet.read_table(tmp_path / "out.parquet")
    assert all(np.array_equal(table[name].to_numpy(), values) for name, values in ARRAYS.items())
    assert table["layer"].to_pylist() == np.repeat(NAMES, SIZES).tolist()
    assert b'"iterations": 3' in table.schema.metadata[b"autosparse"]


def test_export_to_zarr_is_compressed_and_holds_all_arrays(store: Path, tmp_path: Path, command: Command) -> None:
    assert command("export", store, tmp_path / "out.zarr.zip")[0] == 0
    with ZipStore(tmp_path / "out.zarr.zip", mode="r") as archive:
        group = zarr.open_group(archive, mode="r")
        for name, values in ARRAYS.items():
            array = group[name]
            assert isinstance(array, zarr.Array)
            assert np.array_equal(array[:], values)
            assert array.metadata.dimension_names == ("parameter",)
            assert array.dtype == (np.uint8 if name == "survival" else np.float32)
        assert array.nbytes_stored() < SIZE / 2  # two bits would do for a count of three masks
        run = TripleStore.open(store).run
        expected = {"layer_names": NAMES, "layer_sizes": SIZES, "densities": DENSITIES, "run": run}
        assert dict(group.attrs) == expected


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["info", "nowhere"], "no triple store at nowhere"),
        (["export", "PATH"], "export needs a target: autosparse store export"),
        (["export", "PATH", "out.csv"], "unknown kind of file '.csv'; valid: .npz, .parquet, .zarr.zip"),
        (["info", "gs://bucket/x"], "a store is a folder or s3://BUCKET/PREFIX"),
    ],
)
def test_mistakes_are_named(store: Path, arguments: list[str], expected: str, command: Command) -> None:
    code, out, err = command(*(str(store) if argument == "PATH" else argument for argument in arguments))
    assert (code, out) == (2, "")
    assert expected in " ".join(err.split())
