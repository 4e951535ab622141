"""Messages between two processes of a simulation: what is large goes through shared memory."""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from uuid import uuid4

LARGE = 1 << 20  # bytes of a tensor for which a file of the shared folder is quicker


class Channel:
    """One end of a connection; as a context, it is closed with the block.

    A pickle through a socket is copied six times between two tensors, a file in memory twice. Where
    the folder has no room, everything goes through the socket.

    Parameters
    ----------
    connection : Connection
        To the other process, which is one of this simulation: what comes from it is unpickled.
    shared : Path
        A folder in memory of this user alone, the same at both ends.
    """

    def __init__(self, connection: Connection, shared: Path) -> None:
        self._connection = connection
        self._shared = shared
        self._sent: Path | None = None  # the file of what was sent last

    def __enter__(self) -> Channel:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()
        self._forget()  # the other end may have died before it read it

    def send(self, value: Any) -> None:
        """Send a value.

        Raises
        ------
        OSError
            The other process has ended.
        """
        pickled, large = _pickled(value, LARGE)
        self._sent = self._shared / uuid4().hex if large else None
        if self._sent is not None:
            try:
                _write(self._sent, large)
            except OSError:  # such as a container that has 64 MB of it
                self._forget()
                pickled, _ = _pickled(value, None)
        try:
            self._connection.send_bytes(self._sent.name.encode() if self._sent else b"")
            self._connection.send_bytes(pickled)
        except OSError:
            self._forget()
            raise

    def recv(self) -> Any:
        """Return the next value; wait for it.

        Raises
        ------
        EOFError, OSError
            The other process has ended.
        """
        name = self._connection.recv_bytes().decode()
        pickled = self._connection.recv_bytes()
        if not name:
            return _Reader(io.BytesIO(pickled)).load()
        with _read(self._shared / name) as file:
            return _Reader(io.BytesIO(pickled), file).load()

    def _forget(self) -> None:
        if self._sent is not None:
            self._sent.unlink(missing_ok=True)
        self._sent = None


class _Writer(pickle.Pickler):
    """Leaves out large bytes, in their order."""

    def __init__(self, into: io.BytesIO, least: int | None) -> None:
        super().__init__(into, protocol=5)
        self._least = least
        self.large: list[bytes] = []

    def persistent_id(self, obj: Any) -> int | None:
        if self._least is None or type(obj) is not bytes or len(obj) < self._least:
            return None
        self.large.append(obj)
        return len(obj)


class _Reader(pickle.Unpickler):
    """Puts them in again, in the same order."""

    def __init__(self, pickled: io.BytesIO, file: io.FileIO | None = None) -> None:
        super().__init__(pickled)
        self._file = file

    def persistent_load(self, size: int) -> bytes:
        found = self._file.read(size) if self._file else b""
        if found is None or len(found) != size:
            raise pickle.UnpicklingError("shared memory has less than was sent")
        return found


def _pickled(value: Any, least: int | None) -> tuple[bytes, list[bytes]]:
    buffer = io.BytesIO()
    writer = _Writer(buffer, least)
    writer.dump(value)
    return buffer.getvalue(), writer.large


def _write(path: Path, pieces: list[bytes]) -> None:
    with path.open("xb", buffering=0) as file:
        for piece in pieces:
            view = memoryview(piece)
            while view:
                view = view[file.write(view) :]


@contextmanager
def _read(path: Path) -> Iterator[io.FileIO]:
    """Open a file that nobody reads again: it is gone with the block."""
    try:
        with path.open("rb", buffering=0) as file:
            yield file
    finally:
        with suppress(OSError):
            path.unlink()
