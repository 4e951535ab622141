"""TCP lines between a site and the SuperLink: one that can be cut and restored, one that counts."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

UP, DOWN = "up", "down"  # from the site, to the site
DIRECTIONS = (UP, DOWN)


@dataclass
class Proxy:
    """Listens on a free port of 127.0.0.1 and passes every connection on to the port ``target``."""

    target: int
    _sockets: list[socket.socket] = field(default_factory=list)
    _cut: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.cut()
        _close(self._listener)

    def cut(self) -> None:
        """Break every connection, and let no new one through."""
        self._cut.set()
        for opened in self._sockets:
            _close(opened)
        self._sockets.clear()

    def restore(self) -> None:
        """Let new connections through again."""
        self._cut.clear()

    def observer(self, direction: str) -> Callable[[bytes], object]:
        """Return what is called with the bytes of a new connection before they are passed on.

        Here it does nothing; subclasses count or record.
        """
        return len

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:  # closed
                return
            if self._cut.is_set():
                _close(near)
                continue
            try:
                far = socket.create_connection(("127.0.0.1", self.target), timeout=10)
            except OSError:  # the SuperLink is down: so is its proxy
                _close(near)
                continue
            far.settimeout(None)
            self._sockets += [near, far]
            if self._cut.is_set():  # while it connected, so that `cut` did not see it
                _close(near)
                _close(far)
                continue
            for direction, source, sink in ((UP, near, far), (DOWN, far, near)):
                pipe = (source, sink, self.observer(direction))
                threading.Thread(target=_pass_on, args=pipe, daemon=True).start()


@dataclass
class Meter(Proxy):
    """A line that notes how many bytes passed, and when."""

    passed: list[tuple[str, float, int]] = field(default_factory=list)

    def observer(self, direction: str) -> Callable[[bytes], object]:
        """Return what counts the bytes of a new connection."""
        return lambda data: self.passed.append((direction, time.time(), len(data)))

    def between(self, start: float, end: float, direction: str) -> int:
        """Return the bytes that passed from ``start`` to ``end``, in seconds of the clock."""
        passed = list(self.passed)  # a copy: threads append to it
        return sum(size for way, when, size in passed if way == direction and start < when <= end)


def _pass_on(
    source: socket.socket, sink: socket.socket, observe: Callable[[bytes], object]
) -> None:
    """Copy bytes until one end closes; then close both, as a cut cable would."""
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            observe(data)
            sink.sendall(data)
    _close(source)
    _close(sink)


def _close(opened: socket.socket) -> None:
    """Close a socket on which other threads may be waiting: closing alone does not wake them."""
    with contextlib.suppress(OSError):
        opened.shutdown(socket.SHUT_RDWR)
    opened.close()
