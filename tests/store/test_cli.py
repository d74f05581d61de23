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
from tests.store.test_store import GRAD, LAYOUT, MASKS, SHARD, SIZE, SURVIVAL, THETA, N, write

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "triples.zarr"
    write(path)
    return path


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    def call(*arguments: object) -> tuple[int, str, str]:
        code = 0
        try:
            run(Arguments, main, [str(argument) for argument in arguments])
        except SystemExit as stop:
            code = int(stop.code or 0)
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def test_info_tells_what_is_in_a_store(store: Path, command: Command) -> None:
    code, out, _ = command("info", store.parent)
    assert code == 0
    assert re.search(r"complete +yes", out)
    assert f"parameters   {SIZE:,} in 2 layers" in out
    assert f"iterations   {N} of {N}" in out
    assert f"shards       5 an array, of {SHARD:,} in chunks of {SHARD:,}" in out
    assert TripleStore.open(store).fingerprint in out


def test_info_and_verify_of_an_unfinished_store(tmp_path: Path, command: Command) -> None:
    write(tmp_path / "s", until=2)
    assert re.search(r"complete +no", command("info", tmp_path / "s")[1])
    assert command("verify", tmp_path / "s")[1].endswith(f"unfinished (1 of {N} iterations), what is there is whole\n")


def test_verify_names_array_shard_and_chunk(store: Path, tmp_path: Path, command: Command) -> None:
    assert command("verify", store) == (0, f"{store}: whole\n", "")
    write(tmp_path / "s")
    for name in ("grad/c/3", "alive/c/1/0"):
        data = bytearray((tmp_path / "s" / name).read_bytes())
        data[3] ^= 4
        (tmp_path / "s" / name).write_bytes(data)
    code, _, err = command("verify", tmp_path / "s")
    assert code == 2
    assert "grad/c/3 is damaged (checksum), chunk 0;" in err
    assert "alive/c/1/0 is damaged (checksum), chunk 0;" in err
    assert err.endswith("2 problems\n")


def test_export_to_npz(store: Path, tmp_path: Path, command: Command) -> None:
    code, out, err = command("export", store, tmp_path / "out.npz")
    assert (code, err) == (0, "")
    assert out.startswith(f"{tmp_path / 'out.npz'}: {SIZE:,} triples, ")
    with np.load(tmp_path / "out.npz", allow_pickle=False) as saved:
        assert np.array_equal(saved["theta"], THETA.numpy())
        assert np.array_equal(saved["grad"], GRAD.numpy())
        assert np.array_equal(saved["survival"], SURVIVAL)
        assert saved["survival"].dtype == np.uint8
        assert saved["layer_names"].tolist() == [layer.name for layer in LAYOUT.layers]
        assert saved["layer_sizes"].tolist() == [layer.size for layer in LAYOUT.layers]
        assert saved["densities"].tolist() == [mask.density for mask in MASKS]


def test_export_to_parquet(store: Path, tmp_path: Path, command: Command) -> None:
    assert command("export", store, tmp_path / "out.parquet")[0] == 0
    table = pyarrow.parquet.read_table(tmp_path / "out.parquet")
    assert np.array_equal(table["theta"].to_numpy(), THETA.numpy())
    assert np.array_equal(table["grad"].to_numpy(), GRAD.numpy())
    assert np.array_equal(table["survival"].to_numpy(), SURVIVAL)
    first = LAYOUT.layers[0].size
    layers = table["layer"].to_pylist()
    assert set(layers[:first]) == {"a.weight"}
    assert set(layers[first:]) == {"b.weight"}
    assert b'"iterations": 3' in table.schema.metadata[b"autosparse"]


def test_export_to_a_compressed_zarr(store: Path, tmp_path: Path, command: Command) -> None:
    assert command("export", store, tmp_path / "out.zarr.zip")[0] == 0
    with ZipStore(tmp_path / "out.zarr.zip", mode="r") as archive:
        group = zarr.open_group(archive, mode="r")
        for name, values in {"theta": THETA.numpy(), "grad": GRAD.numpy(), "survival": SURVIVAL}.items():
            array = group[name]
            assert isinstance(array, zarr.Array)
            assert np.array_equal(array[:], values)
            assert array.metadata.dimension_names == ("parameter",)
            assert array.dtype == (np.uint8 if name == "survival" else np.float32)
        assert array.nbytes_stored() < SIZE / 2  # two bits would do for a count of three masks
        assert group.attrs["layer_names"] == [layer.name for layer in LAYOUT.layers]
        assert group.attrs["layer_sizes"] == [layer.size for layer in LAYOUT.layers]
        assert group.attrs["densities"] == [mask.density for mask in MASKS]
        assert group.attrs["run"] == TripleStore.open(store).run


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["info", "nowhere"], "no triple store at nowhere"),
        (["info", "PATH", "more"], "info takes one path, got 'more' as well"),
        (["export", "PATH"], "export needs a target: python -m autosparse.store export"),
        (["export", "PATH", "out.csv"], "unknown kind of file '.csv'; valid: .npz, .parquet, .zarr.zip"),
        (["info", "gs://bucket/x"], "stores lie in folders or at s3://BUCKET/PREFIX"),
    ],
)
def test_mistakes_are_one_line(store: Path, arguments: list[str], expected: str, command: Command) -> None:
    code, out, err = command(*(str(store) if argument == "PATH" else argument for argument in arguments))
    assert (code, out) == (2, "")
    assert expected in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [(["info"], "required"), (["look", "PATH"], "invalid choice 'look' for argument 'action'")],
)
def test_what_is_no_action_is_told_with_those_that_are(
    store: Path, arguments: list[str], expected: str, command: Command
) -> None:
    code, out, err = command(*arguments)
    assert (code, out) == (2, "")
    assert expected in " ".join(err.split())
