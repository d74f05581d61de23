"""The report of runs as a web page that follows them: `autosparse serve runs`."""

import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, Annotated

from autosparse.cli.runs import Runs
from autosparse.cluster import status
from autosparse.config import Bounds, Config
from autosparse.errors import UserError

PAUSE = 5.0  # seconds between two looks at the runs
_HOST = "127.0.0.1"
_FIRST = '<!doctype html><meta http-equiv="refresh" content="1"><title>Runs</title>The first page is being written.'


@dataclass(frozen=True)
class Arguments(Config):
    """Show the report and the states of runs as a web page that updates by itself. Prints its address; Ctrl-C ends it.

    The page is for browsers on this machine: `ssh -L 8642:127.0.0.1:8642 MACHINE` brings it to another. It changes
    nothing; everybody with an account on this machine can read it.

    Examples:
      autosparse serve
      autosparse serve runs/irp runs/prune --port 0
    """

    runs: Runs = (Path("runs"),)
    """Folders of runs, or folders that hold them."""
    port: Annotated[int, Bounds(0, 65535)] = 8642
    """Port on which the page is served; 0 for any free one."""


def main(a: Arguments) -> None:
    """Serve the page until Ctrl-C."""
    with serving(a.runs, a.port) as server:
        print(f"http://{_HOST}:{server.server_port}/", flush=True)
        print("Ctrl-C ends it", file=sys.stderr)
        with suppress(KeyboardInterrupt):
            server.serve_forever()


@contextmanager
def serving(paths: Sequence[Path], port: int) -> Iterator[ThreadingHTTPServer]:
    """Return a server of the report of runs, which is written again in the background when a run has changed."""
    status.find(paths)
    done = threading.Event()
    with tempfile.TemporaryDirectory(prefix="autosparse-serve-") as folder:
        try:
            server = ThreadingHTTPServer((_HOST, port), partial(_Handler, directory=folder))
        except OSError as error:
            raise UserError(f"port {port}: {error.strerror}; choose another by --port, 0 for any free one") from None
        writer = threading.Thread(target=_follow, args=(paths, Path(folder), done), daemon=True)
        with server:
            Path(folder, "index.html").write_text(_FIRST)
            writer.start()
            try:
                yield server
            finally:
                done.set()
                writer.join()


def _follow(paths: Sequence[Path], folder: Path, done: threading.Event) -> None:
    """Write the report again whenever a row of the table of runs has changed."""
    from autosparse import study
    from autosparse.page import Document

    title = f"Runs in {', '.join(path.resolve().name for path in paths)}"
    written: list[status.Row] | None = None
    while True:
        start = time.monotonic()
        rows = status.current(paths)
        if rows != written:
            document = Document(folder, title)
            study.overview(document, [path for path in paths if path.exists()], live=True)
            document.write(live=True)
        written = rows
        if done.wait(max(PAUSE, 10 * (time.monotonic() - start))):
            return


class _Handler(SimpleHTTPRequestHandler):
    """Serves the files of the report to browsers that ask for them by a name of this machine."""

    timeout = 30

    def send_head(self) -> IO[bytes] | None:  # type: ignore[override] # also BytesIO
        port = self.connection.getsockname()[1]
        if self.headers.get("Host") not in (f"{_HOST}:{port}", f"localhost:{port}", f"[::1]:{port}"):
            # Otherwise a page of another site, whose name leads here, could read the answer.
            self.send_error(HTTPStatus.FORBIDDEN, f"the address of this page is http://{_HOST}:{port}/")
            return None
        return super().send_head()

    def end_headers(self) -> None:
        self.send_header("Cache-Control", "no-store")
        super().end_headers()

    def log_message(self, *message: object) -> None:
        """Print nothing: a line every few seconds helps nobody."""
