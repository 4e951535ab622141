"""A TCP line between a site and the SuperLink that can be cut and mended."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

UP, DOWN = "up", "down"  # from the site, to the site


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
        """Break every connection, and let none come about."""
        self._cut.set()
        for opened in self._sockets:
            _close(opened)
        self._sockets.clear()

    def mend(self) -> None:
        """Let connections come about again."""
        self._cut.clear()

    def passing(self, way: str) -> Callable[[bytes], object]:
        """Return what each piece of a new connection is given to before it is sent on; here nothing."""
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
            for way, source, sink in ((UP, near, far), (DOWN, far, near)):
                pipe = (source, sink, self.passing(way))
                threading.Thread(target=_pass_on, args=pipe, daemon=True).start()


def _pass_on(
    source: socket.socket, sink: socket.socket, passing: Callable[[bytes], object]
) -> None:
    """Copy bytes until one end closes; then close both, as a cut cable would."""
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            passing(data)
            sink.sendall(data)
    _close(source)
    _close(sink)


def _close(opened: socket.socket) -> None:
    """Close a socket that others may wait on."""
    with contextlib.suppress(OSError):
        opened.shutdown(socket.SHUT_RDWR)
    opened.close()
