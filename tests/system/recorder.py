"""A TCP proxy that keeps what passes through it: the bytes between a SuperNode and its SuperLink."""

from __future__ import annotations

import contextlib
import socket
import threading
from dataclasses import dataclass, field

UP, DOWN = "up", "down"  # from the site, to the site


@dataclass
class Recorder:
    """Listens on a free port of 127.0.0.1 and passes every connection on to the port ``target``.

    Each direction of each connection is one growing array of bytes, so that a frame that TCP cuts
    into pieces is found in one piece.
    """

    target: int
    taken: list[tuple[str, bytearray]] = field(default_factory=list)
    _sockets: list[socket.socket] = field(default_factory=list)

    def __enter__(self) -> Recorder:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        for opened in (self._listener, *self._sockets):
            _close(opened)

    def mark(self) -> list[int]:
        """Return how far each stream is now, for `since`."""
        return [len(stream) for _, stream in self.taken]

    def since(self, mark: list[int], direction: str) -> list[bytes]:
        """Return what passed in ``direction`` since ``mark``, one entry a connection."""
        starts = [*mark, *[0] * (len(self.taken) - len(mark))]
        return [
            bytes(stream[start:])
            for (way, stream), start in zip(list(self.taken), starts, strict=False)
            if way == direction
        ]

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:  # closed
                return
            try:
                far = socket.create_connection(("127.0.0.1", self.target), timeout=10)
            except OSError:  # the SuperLink is down: so is its proxy
                _close(near)
                continue
            far.settimeout(None)
            self._sockets += [near, far]
            for way, source, sink in ((UP, near, far), (DOWN, far, near)):
                stream = bytearray()
                self.taken.append((way, stream))
                threading.Thread(target=_pass_on, args=(source, sink, stream), daemon=True).start()


def _pass_on(source: socket.socket, sink: socket.socket, stream: bytearray) -> None:
    """Copy bytes until one end closes; then close both, as a cut cable would."""
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            stream += data  # before it is sent: what arrived has been recorded
            sink.sendall(data)
    _close(source)
    _close(sink)


def _close(opened: socket.socket) -> None:
    with contextlib.suppress(OSError):
        opened.shutdown(socket.SHUT_RDWR)
    opened.close()
