"""`autosparse serve`: what it answers, and to whom."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from autosparse.cluster.poll import Poll
from autosparse.cluster.serve import server
from tests.cluster.conftest import Commands
from tests.conftest import ROOT
from tests.launch.test_watching import leave, submitted

Script = Callable[..., int]


@contextmanager
def serving(*paths: Path) -> Iterator[int]:
    """The port of a server of runs."""
    with server(Poll(paths), 0) as listening:
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield listening.server_port
        finally:
            listening.shutdown()
            thread.join()


def ask(port: int, method: str, path: str, host: str | None = None) -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request(method, path, headers={"Host": host} if host else {})
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer, body


def test_many_watchers_are_one_question_to_slurm(commands: Commands, tmp_path: Path) -> None:
    commands.answer("squeue", "echo '7|RUNNING|None'; echo '8|PENDING|Priority'")
    steps = {"done": 30, "total": 120, "seconds_left": 3723.2, "epoch": 2, "epochs": 9, "metric": "loss", "value": 0.5}
    leave(tmp_path / "b", job=submitted("8"))
    leave(tmp_path / "<b>c", job=submitted("7"), status={"state": "running", "job": "7"}, progress=steps)
    with serving(tmp_path) as port:
        for _ in range(20):
            answer, body = ask(port, "GET", "/runs.json")
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
    said = json.loads(body)
    assert [run["run"] for run in said["runs"]] == ["<b>c", "b"]
    assert {name: said["runs"][0][name] for name in ("state", "epoch", "done", "left", "metric", "interest")} == {
        "state": "running",
        "epoch": "2 of 9",
        "done": "25%",
        "left": "1:02:03",
        "metric": "loss 0.5",
        "interest": 0,
    }
    assert said["columns"] == ["run", "state", "job", "epoch", "done", "left", "metric"]
    assert len(commands.calls("squeue")) == 1


def test_the_page_is_whole_and_loads_nothing_else(tmp_path: Path) -> None:
    leave(tmp_path / "a", job=submitted(None))
    with serving(tmp_path) as port:
        (answer, page), (_, again) = (ask(port, "GET", "/") for _ in range(2))
        head, nothing = ask(port, "HEAD", "/")
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'nonce-")
    nonce = policy.split("'nonce-")[1].split("'")[0]
    assert page.decode().count(f'nonce="{nonce}"') == 2
    assert page != again  # a nonce serves once
    assert b"://" not in page
    assert b"innerHTML" not in page
    assert (head.status, int(head.headers["Content-Length"]), nothing) == (200, len(page), b"")


@pytest.mark.parametrize(
    "path", ["/a/config.yaml", "/../../etc/passwd", "//etc/passwd", "/%2e%2e/x", "/runs.html", "/?"]
)
def test_no_file_is_read_by_its_path(path: str, tmp_path: Path) -> None:
    leave(tmp_path / "a", config={"kind": "irp"})
    with serving(tmp_path) as port:
        assert ask(port, "GET", path)[0].status == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_nothing_is_changed(method: str, tmp_path: Path) -> None:
    leave(tmp_path / "a", config={"kind": "irp"})
    with serving(tmp_path) as port:
        answer, _ = ask(port, method, "/runs.json")
    assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")


def test_a_name_that_leads_here_from_elsewhere_is_refused(tmp_path: Path) -> None:
    leave(tmp_path / "a", config={"kind": "irp"})
    with serving(tmp_path) as port:
        for host in (f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}"):
            assert ask(port, "GET", "/runs.json", host)[0].status == 200
        for host in ("evil.example", f"evil.example:{port}", "localhost:1", "localhost"):
            answer, body = ask(port, "GET", "/runs.json", host)
            assert (answer.status, b"config" in body) == (403, False)


def test_mistakes_are_one_line(script: Script, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    leave(tmp_path / "a", config={"kind": "irp"})
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert script("serve", tmp_path, "--port", str(port)) == 2
    message = f"error: port {port}: Address already in use; choose another by --port, 0 for any free one\n"
    assert capsys.readouterr().err == message
    assert script("serve", tmp_path, "--port", "65536") == 2
    assert "port must be in 0..65535, got 65536" in capsys.readouterr().err
    assert script("serve", tmp_path / "b") == 2
    assert capsys.readouterr().err == f"error: no runs at {tmp_path / 'b'}\n"


def test_it_says_its_address_and_ends_with_ctrl_c(tmp_path: Path) -> None:
    leave(tmp_path / "a", config={"kind": "irp"})
    command = [sys.executable, ROOT / "launch" / "serve.py", tmp_path, "--port", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
    ) as process:
        assert process.stdout
        address = process.stdout.readline().strip()
        port = int(address.removeprefix("http://127.0.0.1:").rstrip("/"))
        assert ask(port, "GET", "/")[0].status == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0
        assert process.stderr
        assert process.stderr.read() == "Ctrl-C ends it\n"
