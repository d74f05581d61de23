"""A bucket whose server fails or is slow, sometimes or always."""

import itertools
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from autosparse.errors import StoreError
from autosparse.store import TripleStore
from tests.conftest import tree
from tests.store.helpers import write
from tests.store.test_s3 import bucket, endpoint, local, objects  # noqa: F401 (fixtures)
from tests.store.test_writer import RUN, SHARD

pytest.importorskip("obstore")


class Gate(ThreadingHTTPServer):
    """Forwards requests to a server, but fails, delays or loses the answer of some."""

    def __init__(self, server: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.server_url, self.numbers = server, itertools.count(1)
        self.fails: Callable[[int], bool] = lambda number: False
        self.loses: Callable[[int], bool] = lambda number: False
        self.seconds: Callable[[int], float] = lambda number: 0.0


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Gate

    def _answer(self) -> None:
        number = next(self.server.numbers)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)) or None
        time.sleep(self.server.seconds(number))
        if self.server.fails(number):
            return self._send(503, {}, b"")
        url = f"{self.server.server_url}{self.path}"
        headers = {"Content-Type": "application/octet-stream", **self.headers}  # otherwise it counts as a form
        request = urllib.request.Request(url, body, headers, method=self.command)
        try:
            with urllib.request.urlopen(request) as answer:
                if self.server.loses(number):
                    return self._send(503, {}, b"")
                self._send(answer.status, dict(answer.headers), answer.read())
        except urllib.error.HTTPError as error:
            self._send(error.code, dict(error.headers), error.read())

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _answer

    def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response_only(status)
        length = headers.get("Content-Length", str(len(body)))
        for name, value in {**headers, "Content-Length": length}.items():
            if name not in ("Transfer-Encoding", "Connection"):
                self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def gate(bucket: str, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:  # noqa: F811
    with Gate(endpoint) as gate:
        Thread(target=gate.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{gate.server_port}")
        yield gate
        gate.shutdown()


def test_some_errors_and_slow_or_lost_answers_change_nothing(gate: Gate, bucket: str, local: Path) -> None:  # noqa: F811
    gate.fails = lambda number: number % 29 == 0
    gate.loses = lambda number: number % 29 == 7
    gate.seconds = lambda number: 0.2 if number % 11 == 0 else 0.0
    write(f"{bucket}/s", RUN, SHARD)
    assert TripleStore.open(f"{bucket}/s").problems() == []
    assert objects(f"{bucket}/s") == tree(local)
    assert next(gate.numbers) > 30


def test_a_failing_server_is_named_and_the_run_resumes_later(
    gate: Gate,
    bucket: str,  # noqa: F811
    local: Path,  # noqa: F811
) -> None:
    gate.fails = lambda number: number > 12
    with pytest.raises(StoreError, match=rf"{bucket}/s: .*503.*AWS_ENDPOINT_URL"):
        write(f"{bucket}/s", RUN, SHARD)
    gate.fails = lambda number: False
    write(f"{bucket}/s", RUN, SHARD)
    assert objects(f"{bucket}/s") == tree(local)
