"""Decoded pictures on disk, by content and preparation, so that a second start decodes nothing."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import stat
import struct
import time
import uuid
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from client_app.data.pixels import Decoded, Facts, Preparation, Square
from fedstrata.support.durable import private_folder, replacing_private

# A pack is a file that never changes: the squares, then a table with a row for each, then this.
_END = struct.Struct("<8s32sQBB32s")  # magic, preparation, rows, wide, channels, hash of the table
_MAGIC = b"FSPACK2\n"
_ROW = np.dtype(
    [
        ("digest", "V32"),
        ("frame", "<i4"),
        ("frames", "<i4"),  # of its file
        ("unused_pages", "<i4"),
        ("checksum", "<u4"),
        ("flags", "u1"),
        ("size", "<i4", (2,)),  # width and height of the picture that the square is from
        ("numbers", "<f8", (4,)),  # low, high, window
    ]
)
_INVERTED, _COLORED = 1, 2
_UNFINISHED = 3600.0  # seconds after which what a killed process was writing is removed
_FREE_SHARE = 0.05  # of the disk that is left free
logger = logging.getLogger("flwr")


class StoredPicture(NamedTuple):
    """Where a picture lies: its pack, its row there, and what was seen when it was decoded."""

    pack: Pack
    row: int
    frame: int
    facts: Facts

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the picture that the square is from."""
        width, height = self.pack.table[self.row]["size"].tolist()
        return width, height


@dataclass(frozen=True)
class Pack:
    """A checked file of squares that are all of one shape and depth.

    Parameters
    ----------
    path : Path
        The file.
    wide : bool
        Whether the values are float32, and not uint8.
    shape : tuple of int
        Of each square.
    table : NDArray
        A row for each, of which only the hash was checked.
    """

    path: Path
    wide: bool
    shape: tuple[int, int, int]
    table: NDArray[Any]

    def pictures(self) -> Iterator[tuple[str, int, StoredPicture]]:
        """Yield digest, number of pictures of that file, and the picture, for each row."""
        same: dict[bytes, Facts] = {}  # most are, in pictures of 8 bits: they share one object
        for number, row in enumerate(self.table):
            key = row[["unused_pages", "flags", "numbers"]].tobytes()
            facts = same.get(key) or same.setdefault(key, self._facts(row))
            stored = StoredPicture(self, number, int(row["frame"]), facts)
            yield bytes(row["digest"]).hex(), int(row["frames"]), stored

    def _facts(self, row: Any) -> Facts:
        flags = int(row["flags"])
        low, high, window_low, window_high = (float(each) for each in row["numbers"])
        return Facts(
            *(low, high, self.wide, bool(flags & _INVERTED), bool(flags & _COLORED)),
            *(int(row["unused_pages"]), window_low, window_high),
        )

    def squares(self, rows: Sequence[int]) -> list[Square | None]:
        """Return the squares of these rows; None where one is damaged or the file is gone."""
        dtype = np.dtype(np.float32 if self.wide else np.uint8)
        size = int(np.prod(self.shape)) * dtype.itemsize
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return [None] * len(rows)
        try:
            found: list[Square | None] = []
            for row in rows:
                content = os.pread(descriptor, size, row * size)
                sound = len(content) == size and zlib.crc32(content) == self.table[row]["checksum"]
                values = np.frombuffer(content, dtype).reshape(self.shape) if sound else None
                finite = values is not None and (not self.wide or np.isfinite(values).all())
                found.append(values if finite else None)
            return found
        finally:
            os.close(descriptor)


@dataclass
class DecodedStore:
    """The packs of one preparation in a folder.

    Parameters
    ----------
    folder : Path
        Of the packs of all preparations. Whoever can read it sees the pictures: it is private.
    preparation : Preparation
        What was done to the pictures.
    most : int
        Bytes of all packs in the folder together.
    """

    folder: Path
    preparation: Preparation
    most: int
    by_digest: dict[str, list[StoredPicture]] = field(default_factory=dict, repr=False)
    used: set[Path] = field(default_factory=set, repr=False)

    def __post_init__(self) -> None:
        self._prefix = self.preparation.key()[:32]
        self._read(_packs(self.folder, self._prefix))

    def _read(self, paths: Iterable[Path]) -> None:
        """Add what lies in these packs."""
        frames_of: dict[str, int] = {}
        for path in sorted(paths):
            pack = _checked_pack(path, _size(path), self.preparation)
            for digest, frames, stored in pack.pictures() if pack else ():
                frames_of[digest] = frames
                self.by_digest.setdefault(digest, []).append(stored)
        for digest, frames in frames_of.items():
            each = {stored.frame: stored for stored in self.by_digest[digest]}
            self.by_digest[digest] = [each[frame] for frame in sorted(each)]
            if len(each) != frames:
                del self.by_digest[digest]

    def pictures(self, digest: str) -> Sequence[StoredPicture]:
        """Return the pictures of a file in their order; none where they are not all stored."""
        found = self.by_digest.get(digest, ())
        for stored in found:
            if stored.pack.path not in self.used:
                self.used.add(stored.pack.path)
                with suppress(OSError):
                    os.utime(stored.pack.path)  # those used last are removed last
        return found

    def squares(self, keys: Iterable[tuple[str, int]]) -> Mapping[tuple[str, int], Square]:
        """Return those squares that are stored and sound, by digest and frame."""
        by_pack: dict[Path, list[tuple[tuple[str, int], StoredPicture]]] = {}
        for digest, frame in keys:
            for stored in self.by_digest.get(digest, ()):
                if stored.frame == frame:
                    by_pack.setdefault(stored.pack.path, []).append(((digest, frame), stored))
        found: dict[tuple[str, int], Square] = {}
        for wanted in by_pack.values():
            squares = wanted[0][1].pack.squares([stored.row for _, stored in wanted])
            found.update(
                (key, square)
                for (key, _), square in zip(wanted, squares, strict=True)
                if square is not None
            )
        return found

    @contextmanager
    def writing(self) -> Iterator[PackWriter]:
        """Yield a writer of new packs, which are there after the block: all of each, or nothing.

        A disk that is full, or that cannot be written, only means that there are no new packs, and
        a warning in the log.
        """
        taken = sum(_size(path) for path in self.used)
        with suppress(OSError):
            taken = max(taken, self.most - _room(self.folder))
        writer = PackWriter(self.folder, self._prefix, self.preparation, self.most - taken)
        with writer:
            yield writer
        if writer.unkept:
            most = f"there may be {self.most / 1e9:.1f} GB of them (data.cache_mb)"
            free = f"{_FREE_SHARE:.0%} of the disk stay free"
            logger.warning(
                "%d decoded pictures are not kept in %s: %s; the next start decodes them again",
                *(writer.unkept, self.folder, writer.failure or f"{most}, and {free}"),
            )
        if writer.made:
            self._remove_oldest(keep=self.used | set(writer.made))
            self._read(writer.made)

    def _remove_oldest(self, keep: set[Path]) -> None:
        with suppress(OSError):
            for path in self.folder.glob(".*.pack.*.tmp"):
                if time.time() - path.stat().st_mtime > _UNFINISHED:
                    path.unlink(missing_ok=True)
            packs = sorted(_packs(self.folder), key=lambda path: path.stat().st_mtime)
            total = sum(map(_size, packs))
            for path in packs:
                if total > self.most and path not in keep:
                    total -= _size(path)
                    path.unlink(missing_ok=True)


class PackWriter:
    """Writes squares into new packs, one for each depth and number of channels."""

    def __init__(self, folder: Path, prefix: str, preparation: Preparation, most: int) -> None:
        self.made: list[Path] = []
        self.failure = ""  # why nothing could be written
        self._given = 0
        self._folder, self._prefix, self._key = folder, prefix, preparation.key()
        self._left = most
        self._open: dict[tuple[bool, int], tuple[IO[bytes], list[Any]]] = {}
        self._stack, self._lock = ExitStack(), Lock()

    def __enter__(self) -> PackWriter:
        return self

    @property
    def unkept(self) -> int:
        """How many of the given pictures are in no pack, for want of room or after a failure."""
        return self._given - sum(len(rows) for _, rows in self._open.values())

    def add(self, digest: str, frame: int, frames: int, decoded: Decoded) -> None:
        """Append a picture, one of ``frames`` of a file; without room nothing is written."""
        square, facts, shape = decoded
        size = square.nbytes + _ROW.itemsize
        content = np.ascontiguousarray(square).tobytes()
        flags = _INVERTED * facts.inverted | _COLORED * facts.colored
        numbers = (facts.low, facts.high, facts.window_low, facts.window_high)
        name, checksum = bytes.fromhex(digest), zlib.crc32(content)
        with self._lock:
            self._given += 1
            if size > self._left:
                return
            try:
                file, rows = self._file(facts.wide, square.shape[2])
                file.write(content)
            except OSError as error:
                self._give_up(error)
                return
            rows.append((name, frame, frames, facts.unused_pages, checksum, flags, shape, numbers))
            self._left -= size

    def _file(self, wide: bool, channels: int) -> tuple[IO[bytes], list[Any]]:
        if (wide, channels) not in self._open:
            path = self._folder / f"{self._prefix}-{uuid.uuid4().hex}.pack"
            unfinished = self._stack.enter_context(replacing_private(path))
            self._open[wide, channels] = self._stack.enter_context(unfinished.open("wb")), []
            self.made.append(path)
        return self._open[wide, channels]

    def _give_up(self, error: OSError) -> None:
        """Remove what was written: an exception makes `replacing_private` do that."""
        self.failure = error.strerror or type(error).__name__
        self._left = 0
        self.made.clear()
        self._open.clear()
        with suppress(OSError):
            self._stack.__exit__(OSError, error, None)

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is not None:
            self._stack.__exit__(kind, error, trace)
            return
        try:
            for (wide, channels), (file, rows) in self._open.items():
                table = np.array(rows, dtype=_ROW).tobytes()
                digest = hashlib.sha256(table).digest()
                key = bytes.fromhex(self._key)
                file.write(table + _END.pack(_MAGIC, key, len(rows), wide, channels, digest))
            self._stack.close()
        except OSError as error:
            self._give_up(error)


@lru_cache(maxsize=256)
def _checked_pack(path: Path, size: int, preparation: Preparation) -> Pack | None:
    """Return a pack whose sizes and table are sound; None for any other file.

    Packs never change, so each is read once in a process.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        seen = os.fstat(descriptor)
        if not stat.S_ISREG(seen.st_mode) or seen.st_uid != os.geteuid() or seen.st_size != size:
            return None
        end = os.pread(file.fileno(), _END.size, max(0, size - _END.size))
        if len(end) != _END.size:
            return None
        magic, key, count, wide, channels, digest = _END.unpack(end)
        shape = (preparation.size, preparation.size, channels)
        each = int(np.prod(shape)) * (4 if wide == 1 else 1)
        expected = count * (each + _ROW.itemsize) + _END.size
        known = magic == _MAGIC and key.hex() == preparation.key() and wide in (0, 1)
        if not known or channels not in (1, preparation.channels) or expected != size:
            return None
        content = os.pread(file.fileno(), count * _ROW.itemsize, count * each)
    if hashlib.sha256(content).digest() != digest:
        return None
    table = np.frombuffer(content, dtype=_ROW)
    extremes = table["numbers"][:, :2]
    if not np.isfinite(extremes).all() or (extremes[:, 0] > extremes[:, 1]).any():
        return None
    return Pack(path, wide == 1, shape, table)


def _packs(folder: Path, prefix: str = "") -> list[Path]:
    try:
        return list(folder.glob(f"{prefix}*.pack"))
    except OSError:
        return []


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _room(folder: Path) -> int:
    private_folder(folder)
    disk = shutil.disk_usage(folder)
    return disk.free - int(_FREE_SHARE * disk.total)
