"""The live page's server: of this machine alone, read-only, and behind a secret address.

Other users of the machine can reach its ports, and a web page elsewhere can make a browser ask
them. So every path begins with a secret, and the ``Host`` header has to be this machine's.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from fedstrata.report.page import TEMPLATES as REPORT_TEMPLATES
from fedstrata.report.page import report_page
from fedstrata.runs.results import read_results
from fedstrata.support.errors import UserError
from fedstrata.watch import live

ADDRESS = "127.0.0.1"
MOST_STREAMS = 16
EVERY, ALIVE = 1.0, 10.0  # seconds between looks into the folder, and between signs of life
COST = 20  # a look waits so many times as long as the last one took: at most 5 % of a core
TIMEOUT = 30.0  # seconds that a client may take
_LIVE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
)
_REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
_EVERYWHERE = "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


class Server(ThreadingHTTPServer):
    """Shows one run.

    Parameters
    ----------
    path : Path
        The run's folder.
    port : int
        Of this machine; 0 for a free one.
    every : float, optional
        Seconds between looks into the folder.

    Raises
    ------
    UserError
        The port cannot be had.
    """

    daemon_threads = True

    def __init__(self, path: Path, port: int, every: float = EVERY) -> None:
        self.path, self.every = path, every
        self.secret = secrets.token_urlsafe(16)
        self.streams = threading.Semaphore(MOST_STREAMS)
        self.ended = threading.Event()
        try:
            super().__init__((ADDRESS, port), Handler)
        except (OSError, OverflowError) as error:
            raise UserError(
                f"--port {port}: {error}; choose another one, or 0 for any that is free"
            ) from None

    @property
    def url(self) -> str:
        """The address of the page."""
        return f"http://{ADDRESS}:{self.server_port}/{self.secret}/"

    @property
    def hosts(self) -> tuple[str, ...]:
        """What a browser on this machine calls it."""
        return f"{ADDRESS}:{self.server_port}", f"localhost:{self.server_port}"

    def end(self) -> None:
        """Close every stream and stop."""
        self.ended.set()
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    server: Server
    server_version, sys_version = "fedstrata", ""
    timeout = TIMEOUT

    def do_GET(self) -> None:
        """Send what is asked for."""
        if self.headers.get("Host") not in self.server.hosts:
            self._send(HTTPStatus.MISDIRECTED_REQUEST, "this page is of this machine alone\n")
            return
        given, _, name = self.path.removeprefix("/").partition("/")
        if not secrets.compare_digest(given.encode(), self.server.secret.encode()):
            self._send(HTTPStatus.NOT_FOUND, "there is no such page; use the address as printed\n")
            return
        page = self._pages().get(name)
        if page is None:
            self._send(HTTPStatus.NOT_FOUND, "there is no such page\n")
        else:
            page()

    def _pages(self) -> dict[str, Callable[[], None]]:
        path = self.server.path
        return {
            "": partial(self._page, lambda: live.page(path), _LIVE_POLICY),
            "report": partial(
                self._page, lambda: report_page([read_results(path)]), _REPORT_POLICY
            ),
            "style.css": partial(self._send, HTTPStatus.OK, _style(), "text/css"),
            "watch.js": partial(self._send, HTTPStatus.OK, _text("watch.js"), "text/javascript"),
            "events": self._stream,
        }

    def _page(self, made: Callable[[], str], policy: str) -> None:
        try:
            self._send(HTTPStatus.OK, made(), "text/html", policy)
        except UserError as error:
            self._send(HTTPStatus.NOT_FOUND, f"{error}\n")

    def _send(
        self,
        status: HTTPStatus,
        text: str,
        kind: str = "text/plain",
        policy: str = "default-src 'none'; ",
    ) -> None:
        body = text.encode()
        self._head(status, kind, policy)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _head(self, status: HTTPStatus, kind: str, policy: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Security-Policy", policy + _EVERYWHERE)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cache-Control", "no-store")

    def _stream(self) -> None:
        """Send the page's content whenever it changes, until the client is gone."""
        if not self.server.streams.acquire(blocking=False):
            self._send(HTTPStatus.SERVICE_UNAVAILABLE, "too many pages are open\n")
            return
        try:
            self._head(HTTPStatus.OK, "text/event-stream", "default-src 'none'; ")
            self.end_headers()
            self._send_changes()
        except OSError:  # the client is gone
            pass
        finally:
            self.server.streams.release()

    def _send_changes(self) -> None:
        before, sent = "", time.monotonic()
        while not self.server.ended.is_set():
            began = time.monotonic()
            now = live.fragment(self.server.path)
            took = time.monotonic() - began
            if now != before:
                # As JSON it is one line, as an event has to be.
                self.wfile.write(f"data: {json.dumps(now)}\n\n".encode())
                before, sent = now, time.monotonic()
            elif time.monotonic() - sent > ALIVE:
                self.wfile.write(b": alive\n\n")  # fails where the client is gone
                sent = time.monotonic()
            self.server.ended.wait(max(self.server.every, COST * took))

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing: the terminal is the person's."""


def _text(name: str) -> str:
    return (live.TEMPLATES / name).read_text()


def _style() -> str:
    return (REPORT_TEMPLATES / "style.css").read_text() + _text("watch.css")
