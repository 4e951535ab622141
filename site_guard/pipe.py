"""The site's end of the pipe to the app's process: no read and no write waits for ever."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Callable

STEP = 0.5  # seconds between two checks whether to wait on
# Bytes that are asked for at once. Memory grows with what came, not with the length that the other
# end announced: that end runs code that nobody here wrote.
_CHUNK = 1 << 20


class TooLong(ValueError):
    """A byte string that is longer than was agreed; the text says how long it may be."""


class Pipe:
    """Byte strings of known length, framed as `multiprocessing.connection.Connection` frames them.

    That class itself is at the other end only: its reads cannot be interrupted, and it unpickles.

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

    def send(self, data: bytes, check: Callable[[], None]) -> None:
        """Send a byte string; ``check`` is called again and again, and raises to give up.

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
                check()
                with contextlib.suppress(TimeoutError):
                    left = left[self._end.send(left) :]

    def receive(self, most: int, check: Callable[[], None]) -> bytes:
        """Return the next byte string; ``check`` is called again and again, and raises to give up.

        Raises
        ------
        EOFError, OSError
            The other end is gone.
        TooLong
            The byte string is longer than ``most``.
        """
        (length,) = struct.unpack("!i", self._exactly(4, check))
        if not 0 <= length <= most:
            raise TooLong(f"more than {most} bytes")
        return self._exactly(length, check)

    def _exactly(self, length: int, check: Callable[[], None]) -> bytes:
        chunks, left = [], length
        while left:
            check()
            try:
                chunk = self._end.recv(min(_CHUNK, left))
            except TimeoutError:
                continue
            if not chunk:
                raise EOFError("the other end is gone")
            chunks.append(chunk)
            left -= len(chunk)
        return b"".join(chunks)
