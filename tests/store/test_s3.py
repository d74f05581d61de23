"""Stores in a bucket of an S3 server on this machine."""

import itertools
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch

from autosparse.errors import StoreError
from autosparse.store import TripleLoader, TripleStore, TripleWriter
from autosparse.store.storage import storage_of
from tests.conftest import Patch, tree
from tests.store.helpers import flip, write
from tests.store.test_writer import LAYOUT, RUN, SHARD, N

moto = pytest.importorskip("moto.server")
pytest.importorskip("obstore")
Response = pytest.importorskip("werkzeug").Response
make_server = pytest.importorskip("werkzeug.serving").make_server


class Flaky:
    """An S3 server's application that fails some requests, or loses their answers."""

    def __init__(self) -> None:
        self.numbers, self.application = itertools.count(1), moto.DomainDispatcherApplication(moto.create_backend_app)
        self.fails: Callable[[int], bool] = lambda number: False
        self.loses: Callable[[int], bool] = lambda number: False

    def __call__(self, environ: Any, start_response: Any) -> Any:
        number = next(self.numbers)
        if self.loses(number):
            list(self.application(environ, lambda *arguments: lambda content: None))
        if self.fails(number) or self.loses(number):
            return Response(status=503)(environ, start_response)
        return self.application(environ, start_response)


@pytest.fixture
def flaky() -> Flaky:
    return Flaky()


@pytest.fixture
def endpoint(flaky: Flaky) -> Iterator[str]:
    server = make_server("127.0.0.1", 0, flaky, threaded=True)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.port}"
    server.shutdown()


@pytest.fixture
def bucket(endpoint: str, monkeypatch: Patch, request: pytest.FixtureRequest) -> str:
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


def test_bytes_are_those_of_a_folder(bucket: str, local: Path) -> None:
    write(f"{bucket}/run/triples.zarr", RUN, SHARD)
    assert objects(f"{bucket}/run/triples.zarr") == tree(local)
    store = TripleStore.open(f"{bucket}/run")
    assert np.array_equal(store.theta(slice(4000, 9000)), RUN.theta[4000:9000].numpy())
    assert torch.equal(store.mask(2).kept, RUN.masks[2].kept)
    assert store.problems() == []
    loaders = (TripleLoader([TripleStore.open(path)], 512, seed=5) for path in (f"{bucket}/run", local))
    for a, b in zip(*loaders, strict=True):
        assert torch.equal(a.theta, b.theta)
        assert torch.equal(a.survival, b.survival)


@pytest.mark.parametrize("until", [0, 4])
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


def test_some_errors_and_lost_answers_change_nothing(flaky: Flaky, bucket: str, local: Path) -> None:
    flaky.fails = lambda number: number % 29 == 0
    flaky.loses = lambda number: number % 29 == 7
    write(f"{bucket}/s", RUN, SHARD)
    assert objects(f"{bucket}/s") == tree(local)
    assert next(flaky.numbers) > 30


def test_a_failing_server_is_named_and_the_run_resumes_later(flaky: Flaky, bucket: str, local: Path) -> None:
    flaky.fails = lambda number: number > 12
    with pytest.raises(StoreError, match=rf"{bucket}/s: .*503.*AWS_ENDPOINT_URL"):
        write(f"{bucket}/s", RUN, SHARD)
    flaky.fails = lambda number: False
    write(f"{bucket}/s", RUN, SHARD)
    assert objects(f"{bucket}/s") == tree(local)


def test_damage_raises(bucket: str) -> None:
    storage = storage_of(f"{bucket}/s")
    write(str(storage), RUN, SHARD)
    content = storage.read("theta/c/1")
    storage.write("theta/c/1", flip(content, len(content) * 4))
    with pytest.raises(StoreError, match=r"theta/c/1 is damaged \(checksum\)"):
        TripleStore.open(f"{bucket}/s").theta()
    storage.remove("theta/c/1")
    with pytest.raises(StoreError, match="theta/c/1 is missing"):
        TripleStore.open(f"{bucket}/s")


def test_missing_stores_and_servers_are_named(bucket: str, monkeypatch: Patch) -> None:
    with pytest.raises(StoreError, match=rf"no triple store at {bucket}/none"):
        TripleStore.open(f"{bucket}/none")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StoreError, match=rf"{bucket}/s/.*AWS_ENDPOINT_URL"):
        TripleStore.open(f"{bucket}/s")
