"""`autosparse serve`: the report and the states of runs, for browsers on this machine alone."""

import http.client
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from autosparse.cli import serve
from tests.conftest import ROOT, RUN, Capture, Patch, Script
from tests.launch.test_watching import leave, submitted


@contextmanager
def serving(*paths: Path) -> Iterator[int]:
    """Yield the port of a server of runs whose first page is written."""
    with serve.serving(paths, 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            until_shown(server.server_port, "data-live")
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def ask(port: int, method: str, path: str, host: str | None = None) -> tuple[http.client.HTTPResponse, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request(method, path, headers={"Host": host} if host else {})
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer, body


def until_shown(port: int, text: str) -> str:
    end = time.monotonic() + 120
    while text not in (page := ask(port, "GET", "/")[1]):
        assert time.monotonic() < end
        time.sleep(0.05)
    return page


def test_page_follows_states_and_results(finished: Path, tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(serve, "PAUSE", 0.1)
    failed = {"state": "failed", "why": "the loss is not finite"}
    leave(tmp_path / "<b>c", status=failed, config={"kind": "irp"})
    with serving(tmp_path) as port:
        page = until_shown(port, "the loss is not finite")
        assert "&lt;b&gt;c" in page
        assert "<b>c" not in page
        assert "1 failed" in page
        (tmp_path / RUN).symlink_to(finished / "irp" / RUN)
        page = until_shown(port, "lenet-300-100 on digits")
        answer, nothing = ask(port, "HEAD", "/")
        markdown = ask(port, "GET", "/report.md")[1]
    assert "complete" in page
    assert "data-live" in page
    assert (answer.status, answer.headers["Cache-Control"], nothing) == (200, "no-store", "")
    assert "| run | state |" in markdown


def test_other_paths_methods_and_names_are_refused(tmp_path: Path) -> None:
    leave(tmp_path / "a", config={"kind": "irp"})
    with serving(tmp_path) as port:
        for path in ("/a/config.yaml", "/../../etc/passwd"):
            assert ask(port, "GET", path)[0].status == 404
        for method in ("POST", "PUT", "DELETE"):
            assert ask(port, method, "/")[0].status == 501
        for host in (f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}"):
            assert ask(port, "GET", "/", host)[0].status == 200
        for host in ("evil.example", f"evil.example:{port}", "localhost:1", "localhost"):
            answer, body = ask(port, "GET", "/", host)
            assert (answer.status, "data-live" in body) == (403, False)


def test_mistakes_are_one_line(script: Script, tmp_path: Path, capsys: Capture) -> None:
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


def test_command_prints_its_address_and_ends_with_ctrl_c(tmp_path: Path) -> None:
    leave(tmp_path / "a", job=submitted(None))
    command = [sys.executable, ROOT / "launch" / "serve.py", tmp_path, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        address = process.stdout.readline().strip()
        port = int(address.removeprefix("http://127.0.0.1:").rstrip("/"))
        assert ask(port, "GET", "/")[0].status == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=240) == 0  # The first page is written to its end.
        assert process.stderr
        assert process.stderr.read() == "Ctrl-C ends it\n"
