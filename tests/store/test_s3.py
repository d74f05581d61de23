"""Stores in a bucket: a server that speaks S3, on this machine."""

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from autosparse.errors import StoreError
from autosparse.store import TripleLoader, TripleStore, TripleWriter
from autosparse.store.storage import storage_of
from autosparse.store.verify import problems
from tests.conftest import tree
from tests.store import drawn
from tests.store.test_store import GRAD, LAYOUT, MASKS, RUN, SHARD, THETA, N, write

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
    write(path)
    return path


def objects(url: str) -> dict[str, bytes]:
    storage = storage_of(url)
    return {name: storage.read(name) for name in sorted(storage.sizes())}


def read_all(url: str) -> None:
    store = TripleStore.open(url)
    for array in (store.theta, store.grad, store.survival, lambda: store.alive(2)):
        array()


def write_remote(url: str, until: int = 99) -> None:
    """Write the store of `write` to a bucket, going on where it stands; stop after `until` commits."""
    writer = TripleWriter.open(url, LAYOUT, N, {"seed": 0}, shard=SHARD)
    while writer.committed < min(until - 1, N):
        drawn.advance(writer, RUN)
    if until > N + 1:
        writer.finish()


def test_the_same_bytes_as_in_a_folder(bucket: str, local: Path) -> None:
    write_remote(f"{bucket}/run/triples.zarr")
    assert objects(f"{bucket}/run/triples.zarr") == tree(local)
    store = TripleStore.open(f"{bucket}/run")
    assert np.array_equal(store.theta(slice(4000, 9000)), THETA[4000:9000].numpy())
    assert torch.equal(store.mask(2).kept, MASKS[2].kept)
    assert problems(store) == []


@pytest.mark.parametrize("until", [0, 1, 4])
def test_an_unfinished_store_is_refused_and_goes_on(bucket: str, until: int, local: Path) -> None:
    url = f"{bucket}/s"
    write_remote(url, until)
    with pytest.raises(StoreError, match=f"{url} is not finished"):
        TripleStore.open(url)
    storage_of(url).write("survival/c/0", b"of a killed writer")
    write_remote(url)
    assert objects(url) == tree(local)


def test_an_object_is_written_once(bucket: str) -> None:
    one, other = (TripleWriter.open(f"{bucket}/s", LAYOUT, N, {}, shard=SHARD) for _ in range(2))
    one.commit_features(THETA, GRAD)
    with pytest.raises(StoreError, match=r"another process has written (theta|grad)/c/"):
        other.commit_features(GRAD, THETA)
    assert np.array_equal(one.store.theta(), THETA.numpy())


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
def test_damage_is_never_read_as_numbers(bucket: str, name: str, damage: str) -> None:
    storage = storage_of(f"{bucket}/s")
    write_remote(str(storage))
    content = bytearray(storage.read(name))
    content[len(content) // 2] ^= 1
    if damage == "delete":
        storage.remove(name)
    else:
        storage.write(name, content if damage == "flip" else content[:-3])
    expected = "is not finished" if (name, damage) == ("complete", "delete") else name
    with pytest.raises(StoreError, match=expected):
        read_all(f"{bucket}/s")


def test_the_loader_reads_from_a_bucket(bucket: str, local: Path) -> None:
    write_remote(f"{bucket}/s")
    remote, here = (TripleLoader([TripleStore.open(path)], 512, seed=5) for path in (f"{bucket}/s", local))
    for a, b in zip(remote, here, strict=True):
        assert torch.equal(a.theta, b.theta)
        assert torch.equal(a.survival, b.survival)


def test_mistakes_name_the_url(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StoreError, match=rf"no triple store at {bucket}/none"):
        TripleStore.open(f"{bucket}/none")
    write_remote(f"{bucket}/s")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StoreError, match=rf"{bucket}/s/.*AWS_ENDPOINT_URL"):
        TripleStore.open(f"{bucket}/s")


def test_the_run_is_in_the_attributes(bucket: str) -> None:
    write_remote(f"{bucket}/s", 0)
    assert json.loads(storage_of(f"{bucket}/s").read("zarr.json"))["attributes"]["run"] == {"seed": 0}
