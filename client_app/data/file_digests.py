"""Which files have the same bytes; what was found is kept, so that each file is read once a machine."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from client_app.data.paths import describe_file
from fedstrata.support.durable import locked_folder, private_folder, replacing_private
from fedstrata.support.errors import UserError

FOLDER = "digests"
MOST_THREADS = 4
PIECE = 512  # files that are given to threads at once
SAMPLE = 4096  # bytes of a file that tell it from most others of its size
_RACY = 2_000_000_000  # ns: a file this young could change without a new time
MOST_PILED = 8  # times as many kept digests as files, before the old ones go
MOST_KEPT = 50_000
_KEY = 16  # bytes of a name's digest
logger = logging.getLogger("flwr")

Known = dict[bytes, bytes]
Given, Made = TypeVar("Given"), TypeVar("Made")


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file; raise a `UserError` where it cannot be read."""
    try:
        with path.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise UserError(describe_file(path) + f": cannot be read ({error.strerror})") from error


def same_content(
    root: Path, paths: Sequence[Path | str], cache_dir: Path | None
) -> NDArray[np.int64]:
    """Return a number for each file that all with the same bytes share, int64 ``(n,)``.

    Only files of equal size are looked into: at `SAMPLE` bytes of each, and only those with the
    same ones are read in whole. With ``cache_dir`` SHA-256 of both are kept there, by a digest of
    name, size and times, so that no name of a file stands in the cache. A file that cannot be read,
    or is empty, shares its number with none: what decodes it says so, or leaves it out.
    """
    now = time.time_ns()
    seen = {row: stat for row, path in enumerate(paths) if (stat := _stat(path)) is not None}
    sizes = Counter(stat.st_size for stat in seen.values())
    files = [
        _File(row, paths[row], stat.st_size, _key(paths[row], stat), _changed(stat))
        for row, stat in seen.items()
        if stat.st_size and sizes[stat.st_size] > 1
    ]
    if not files:
        return np.arange(len(paths), dtype=np.int64)
    if cache_dir is None:
        return _numbered(files, {}, len(paths))[0]
    path = _kept_in(cache_dir, str(root))
    try:
        private_folder(path.parent)
        with locked_folder(path.parent):  # the others wait, and then find all of it
            known = _load(path)
            numbers, found = _numbered(files, known, len(paths))
            if found:
                lasting = {
                    key: found[key]
                    for file in files
                    if file.changed < now - _RACY
                    for key in (file.key, file.sample_key())
                    if key in found
                }
                _save(path, _bounded(known, lasting, 2 * len(paths)))
            return numbers
    except OSError as error:
        logger.warning("the digests of the data are not kept: %s", error)
        return _numbered(files, {}, len(paths))[0]


class KeptDigests:
    """The SHA-256 of files that were read before, as long as their sizes and times are the same.

    Parameters
    ----------
    cache_dir : Path
        The site's cache.
    root : str
        The folder of the files: each has a file of its own in the cache, which `same_content` uses
        too.
    """

    def __init__(self, cache_dir: Path, root: str) -> None:
        self._path = _kept_in(cache_dir, root)
        self._known = _load(self._path)
        self._found: Known = {}

    def find(self, path: Path) -> tuple[bytes, str | None]:
        """Return what stands for the file as it is now, and its SHA-256 where that is known.

        Nothing stands for a file that is so young that it could change without a new time.
        """
        seen = _stat(path)
        if seen is None or _changed(seen) >= time.time_ns() - _RACY:
            return b"", None
        key = _key(path, seen)
        digest = self._known.get(key)
        return key, None if digest is None else digest.hex()

    def add(self, key: bytes, digest: str) -> None:
        """Note the SHA-256 of a file that was read after `find` gave ``key`` for it."""
        if key:
            self._found[key] = bytes.fromhex(digest)

    def save(self) -> None:
        """Keep what was added, and forget all; a full disk only means that files are read again."""
        found, self._found, self._known = self._found, {}, {}
        if not found:
            return
        try:
            private_folder(self._path.parent)
            with locked_folder(self._path.parent):
                # What other sites of the folder read stays, but not what has piled up.
                _save(self._path, _bounded(_load(self._path), found, len(found)))
        except OSError as error:
            logger.warning("the digests of the data are not kept: %s", error)


def map_in_pieces(
    pool: Executor, function: Callable[[Given], Made], given: Sequence[Given]
) -> Iterator[Made]:
    """Yield what ``pool.map`` yields, with few futures at once: each takes 2 kB."""
    for first in range(0, len(given), PIECE):
        yield from pool.map(function, given[first : first + PIECE])


class _File(NamedTuple):
    """A file among others of its size; ``changed`` is the later of its times, in ns."""

    row: int
    path: Path | str
    size: int
    key: bytes
    changed: int

    def sample_key(self) -> bytes:
        """Return the key of its sample, which of a file that is no longer is the file's own."""
        if self.size <= SAMPLE:
            return self.key
        return hashlib.blake2b(self.key, digest_size=_KEY, person=b"sample").digest()


def _numbered(files: Sequence[_File], known: Known, count: int) -> tuple[NDArray[np.int64], Known]:
    """Return the numbers, which are the row of the first with the same bytes, and what was read."""
    numbers = np.arange(count, dtype=np.int64)
    found: Known = {}
    suspects: Sequence[_File] = files
    if any(file.key not in known for file in files):
        suspects = _of_one_sample(files, known, found)
        missing = {
            file.key: file for file in suspects if file.key not in known and file.key not in found
        }
        found |= _read(missing, _digest)
    first: dict[tuple[int, bytes], int] = {}
    for file in suspects:
        digest = known.get(file.key) or found.get(file.key)
        if digest is not None:
            numbers[file.row] = first.setdefault((file.size, digest), file.row)
    return numbers, found


def _of_one_sample(files: Sequence[_File], known: Known, found: Known) -> list[_File]:
    """Return the files that have size and sample of another; what is read of them is ``found``."""
    by_size: dict[int, list[_File]] = defaultdict(list)
    for file in files:
        by_size[file.size].append(file)
    keys: dict[int, bytes] = {}  # of samples, by row, of sizes of which not all is known
    for group in by_size.values():
        if any(file.key not in known for file in group):
            keys.update((file.row, file.sample_key()) for file in group)
    missing = {keys[f.row]: f for f in files if f.row in keys and keys[f.row] not in known}
    found |= _read(missing, _sampled)
    alike: dict[tuple[int, bytes], list[_File]] = defaultdict(list)
    for file in files:
        if file.row not in keys:
            alike[file.size, b""].append(file)
        elif sample := known.get(keys[file.row]) or found.get(keys[file.row]):
            alike[file.size, sample].append(file)
    return [file for group in alike.values() if len(group) > 1 for file in group]


def _bounded(known: Known, found: Known, files: int) -> Known:
    """Return all that is known, or what was found now alone where too much has piled up."""
    piled = len(known) > MOST_PILED * max(files, MOST_KEPT)
    return found if piled else known | found


def _kept_in(cache_dir: Path, root: str) -> Path:
    return cache_dir / FOLDER / f"{hashlib.sha256(os.fsencode(root)).hexdigest()[:32]}.npz"


def _key(path: Path | str, stat: os.stat_result) -> bytes:
    text = f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}\0{stat.st_ctime_ns}"
    return hashlib.blake2b(os.fsencode(text), digest_size=_KEY).digest()


def _changed(stat: os.stat_result) -> int:
    return max(stat.st_mtime_ns, stat.st_ctime_ns)


def _stat(path: Path | str) -> os.stat_result | None:
    try:
        return os.stat(path)  # noqa: PTH116 - of 70,000 names, without a Path each
    except OSError:
        return None


def _read(wanted: Mapping[bytes, _File], read: Callable[[_File], bytes | None]) -> Known:
    """Return what ``read`` makes of those files that can be read."""
    with ThreadPoolExecutor(MOST_THREADS) as pool:
        pairs = zip(wanted, map_in_pieces(pool, read, list(wanted.values())), strict=True)
        return {key: digest for key, digest in pairs if digest is not None}


def _digest(file: _File) -> bytes | None:
    try:
        with Path(file.path).open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").digest()
    except OSError:
        return None


def _sampled(file: _File) -> bytes | None:
    """Return the SHA-256 of half of a sample from the middle of a file, and half from its end."""
    if file.size <= SAMPLE:
        return _digest(file)
    half = SAMPLE // 2
    try:
        descriptor = os.open(file.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            middle = os.pread(descriptor, half, file.size // 2)
            end = os.pread(descriptor, half, file.size - half)
        finally:
            os.close(descriptor)
    except OSError:
        return None
    return hashlib.sha256(middle + end).digest()


def _load(path: Path) -> Known:
    """Return what is kept; nothing where it is not there or damaged."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            keys, digests = arrays["keys"], arrays["digests"]
    except FileNotFoundError:
        return {}
    except Exception as error:  # numpy and zipfile raise a dozen kinds for a damaged file
        logger.warning("the kept digests %s are damaged and made again: %s", path, error)
        return {}
    if keys.dtype != np.uint8 or keys.shape[1:] != (_KEY,) or digests.shape != (len(keys), 32):
        return {}
    if digests.dtype != np.uint8:
        return {}
    each = (np.ascontiguousarray(keys).view(f"V{_KEY}"), np.ascontiguousarray(digests).view("V32"))
    names, values = (array.ravel().tolist() for array in each)
    return dict(zip(names, values, strict=True))


def _save(path: Path, known: Known) -> None:
    if not known:
        return
    keys = np.frombuffer(b"".join(known), dtype=np.uint8).reshape(-1, _KEY)
    digests = np.frombuffer(b"".join(known.values()), dtype=np.uint8).reshape(-1, 32)
    with replacing_private(path) as unfinished, unfinished.open("wb") as opened:
        np.savez(opened, keys=keys, digests=digests)
