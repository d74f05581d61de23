"""A web page that follows runs: what `status --live` shows, for a browser on this machine. It only reads."""

import json
import secrets
import sys
import time
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files

from autosparse.cluster import status
from autosparse.cluster.poll import PAUSE, Poll
from autosparse.errors import UserError

_HOST = "127.0.0.1"
_NAMES = ("127.0.0.1", "localhost", "[::1]")  # of this machine, to itself
_HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def server(poll: Poll, port: int) -> ThreadingHTTPServer:
    """A server of the page, which listens already, on this machine alone; 0 is any free port.

    Raises:
        UserError: the port cannot be had.
    """
    try:
        return ThreadingHTTPServer((_HOST, port), partial(_Handler, poll))
    except OSError as error:
        raise UserError(f"port {port}: {error.strerror}; choose another by --port, 0 for any free one") from None


def serve(poll: Poll, port: int) -> None:
    """Say the address, and answer until Ctrl-C."""
    with server(poll, port) as listening:
        print(f"http://{_HOST}:{listening.server_port}/", flush=True)
        print("Ctrl-C ends it", file=sys.stderr)
        with suppress(KeyboardInterrupt):
            listening.serve_forever()


class _Handler(BaseHTTPRequestHandler):
    """Answers `/` and `/runs.json`, and nothing else; no file is opened by a name that a browser sends."""

    timeout = 30  # seconds that a browser may take to ask

    def __init__(self, poll: Poll, *connection: object) -> None:
        self._poll = poll
        super().__init__(*connection)  # type: ignore[arg-type] # it answers within

    def do_GET(self) -> None:
        port = self.connection.getsockname()[1]
        if self.headers.get("Host") not in [f"{name}:{port}" for name in _NAMES]:
            # a page of another site, whose name was made to lead here, could read the answer
            self._answer(HTTPStatus.FORBIDDEN, f"the address of this page is http://{_HOST}:{port}/\n")
        elif self.path == "/":
            nonce = secrets.token_urlsafe()
            own = f"'nonce-{nonce}'"
            policy = f"default-src 'none'; script-src {own}; style-src {own}; connect-src 'self'; img-src data:; "
            policy += "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
            page = files("autosparse.cluster").joinpath("runs.html").read_text(encoding="utf-8")
            self._answer(HTTPStatus.OK, page.replace("NONCE", nonce), "text/html", {"Content-Security-Policy": policy})
        elif self.path == "/runs.json":
            self._answer(HTTPStatus.OK, json.dumps(_said(self._poll.rows())), "application/json")
        else:
            self._answer(HTTPStatus.NOT_FOUND, "there are / and /runs.json\n")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self._answer(HTTPStatus.METHOD_NOT_ALLOWED, "this page only shows\n", more={"Allow": "GET, HEAD"})

    do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_TRACE = do_CONNECT = do_POST

    def log_message(self, *what: object) -> None:
        """Nothing: a line every few seconds helps nobody."""

    def _answer(
        self, code: HTTPStatus, text: str, kind: str = "text/plain", more: dict[str, str] | None = None
    ) -> None:
        body = text.encode()
        self.send_response(code)
        told = {"Content-Type": f"{kind}; charset=utf-8", "Content-Length": str(len(body))}
        for name, value in (_HEADERS | told | (more or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _said(rows: list[status.Row]) -> dict[str, object]:
    """What the page asks for: rows as they are shown, those to be looked at first at the top."""
    silent = any(row["state"] == "unknown" for row in rows)
    return {
        "columns": [name for name in status.COLUMNS if any(row[name] for row in rows)],
        "runs": [row | {"interest": status.interest(row)} for row in rows],
        "note": f"{status.SILENT}: what waits or runs there is not known" if silent else "",
        "time": time.strftime("%H:%M:%S"),
        "pause": PAUSE,
    }
