"""The site's end of the pipe to the app's process: no read and no write of it waits for ever."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Callable

STEP = 0.5  # seconds between two looks whether it is still worth waiting
_PIECE = 1 << 20  # bytes that are asked for at once: memory grows with what came


class TooLong(ValueError):
    """A byte string that is longer than was agreed; the text says how long it may be."""


class Pipe:
    """Byte strings of known length, framed as `multiprocessing.connection.Connection` does it.

    Parameters
    ----------
    end : socket
        One of a pair; the other is the app's process's.
    """

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        end.settimeout(STEP)

    def close(self) -> None:
        """Close this end."""
        self._end.close()

    def send(self, data: bytes, still: Callable[[], None]) -> None:
        """Send a byte string; ``still`` is called all the while, and raises to give up.

        Raises
        ------
        OSError
            The other end is gone.
        TooLong
            The byte string has 2 GiB or more.
        """
        if len(data) >= 1 << 31:
            raise TooLong("2 GiB or more")
        for part in (struct.pack("!i", len(data)), data):
            left = memoryview(part)
            while left:
                still()
                with contextlib.suppress(TimeoutError):
                    left = left[self._end.send(left) :]

    def receive(self, most: int, still: Callable[[], None]) -> bytes:
        """Return the next byte string; ``still`` is called all the while, and raises to give up.

        Raises
        ------
        EOFError, OSError
            The other end is gone.
        TooLong
            The byte string is longer than ``most``.
        """
        (length,) = struct.unpack("!i", self._exactly(4, still))
        if not 0 <= length <= most:
            raise TooLong(f"more than {most} bytes")
        return self._exactly(length, still)

    def _exactly(self, length: int, still: Callable[[], None]) -> bytes:
        pieces, left = [], length
        while left:
            still()
            try:
                piece = self._end.recv(min(_PIECE, left))
            except TimeoutError:
                continue
            if not piece:
                raise EOFError("the other end is gone")
            pieces.append(piece)
            left -= len(piece)
        return b"".join(pieces)
