"""Stores in a bucket of an S3 server on this machine."""

import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from autosparse.errors import StoreError
from autosparse.store import TripleLoader, TripleStore, TripleWriter
from autosparse.store.storage import storage_of
from tests.conftest import tree
from tests.store.helpers import flip, write
from tests.store.test_writer import LAYOUT, RUN, SHARD, N

moto = pytest.importorskip("moto.server")
pytest.importorskip("obstore")


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = moto.ThreadedMotoServer("127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    settings = {"ENDPOINT_URL": endpoint, "ALLOW_HTTP": "true", "REGION": "us-east-1"}
    for name, value in {**settings, "ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    name = f"bucket-{abs(hash(request.node.name)):x}"
    urllib.request.urlopen(urllib.request.Request(f"{endpoint}/{name}", method="PUT")).close()
    return f"s3://{name}"


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "triples.zarr"
    write(path, RUN, SHARD)
    return path


def objects(url: str) -> dict[str, bytes]:
    storage = storage_of(url)
    return {name: storage.read(name) for name in sorted(storage.sizes())}


def read_all(url: str) -> None:
    store = TripleStore.open(url)
    for array in (store.theta, store.grad, store.survival, lambda: store.alive(2)):
        array()


def test_bytes_are_those_of_a_folder(bucket: str, local: Path) -> None:
    write(f"{bucket}/run/triples.zarr", RUN, SHARD)
    assert objects(f"{bucket}/run/triples.zarr") == tree(local)
    store = TripleStore.open(f"{bucket}/run")
    assert np.array_equal(store.theta(slice(4000, 9000)), RUN.theta[4000:9000].numpy())
    assert torch.equal(store.mask(2).kept, RUN.masks[2].kept)
    assert store.problems() == []


@pytest.mark.parametrize("until", [0, 1, 4])
def test_an_unfinished_store_raises_and_is_resumed(bucket: str, until: int, local: Path) -> None:
    url = f"{bucket}/s"
    write(url, RUN, SHARD, until=until)
    with pytest.raises(StoreError, match=f"{url} is not finished"):
        TripleStore.open(url)
    storage_of(url).write("survival/c/0", b"of a killed writer")
    write(url, RUN, SHARD)
    assert objects(url) == tree(local)


def test_second_writer_of_an_object_raises(bucket: str) -> None:
    one, other = (TripleWriter.open(f"{bucket}/s", LAYOUT, N, {}, shard=SHARD) for _ in range(2))
    one.commit_features(RUN.theta, RUN.grad)
    with pytest.raises(StoreError, match=r"another process has written (theta|grad)/c/"):
        other.commit_features(RUN.grad, RUN.theta)
    assert np.array_equal(one.store.theta(), RUN.theta.numpy())


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("theta/c/1", "flip"),
        ("alive/c/1/2", "truncate"),
        ("grad/zarr.json", "flip"),
        ("ledger.json", "delete"),
        ("complete", "delete"),
    ],
)
def test_damage_raises(bucket: str, name: str, damage: str) -> None:
    storage = storage_of(f"{bucket}/s")
    write(str(storage), RUN, SHARD)
    content = storage.read(name)
    if damage == "delete":
        storage.remove(name)
    else:
        storage.write(name, flip(content, len(content) * 4) if damage == "flip" else content[:-3])
    expected = "is not finished" if (name, damage) == ("complete", "delete") else name
    with pytest.raises(StoreError, match=expected):
        read_all(f"{bucket}/s")


def test_loader_reads_from_a_bucket(bucket: str, local: Path) -> None:
    write(f"{bucket}/s", RUN, SHARD)
    remote, expected = (TripleLoader([TripleStore.open(path)], 512, seed=5) for path in (f"{bucket}/s", local))
    for a, b in zip(remote, expected, strict=True):
        assert torch.equal(a.theta, b.theta)
        assert torch.equal(a.survival, b.survival)


def test_missing_stores_and_servers_are_named(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StoreError, match=rf"no triple store at {bucket}/none"):
        TripleStore.open(f"{bucket}/none")
    write(f"{bucket}/s", RUN, SHARD)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StoreError, match=rf"{bucket}/s/.*AWS_ENDPOINT_URL"):
        TripleStore.open(f"{bucket}/s")
