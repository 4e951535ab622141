"""Which files have the same bytes; what was found is kept, so that each file is read once a machine."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedstrata.support.durable import locked_folder, private_folder, replacing_private

FOLDER = "digests"
MOST_THREADS = 4
_RACY = 2_000_000_000  # ns: a file this young could change without a new time
MOST_PILED = 4  # times as many kept digests as files, before the old ones go
MOST_KEPT = 100_000
_KEY = 16  # bytes of a name's digest
logger = logging.getLogger("flwr")

Known = dict[bytes, bytes]


def same_content(root: Path, paths: Sequence[Path], cache_dir: Path | None) -> NDArray[np.int64]:
    """Return a number for each file that all with the same bytes share, int64 ``(n,)``.

    Only files of equal size are read. With ``cache_dir`` their SHA-256 is kept there, by a digest
    of name, size and times, so that no name of a file stands in the cache. A file that cannot be
    read shares its number with none: what decodes it says so, or leaves it out.
    """
    seen = {row: stat for row, path in enumerate(paths) if (stat := _stat(path)) is not None}
    sizes = Counter(stat.st_size for stat in seen.values())
    alike = [row for row, stat in seen.items() if sizes[stat.st_size] > 1]
    numbers = np.arange(len(paths), dtype=np.int64)
    if not alike:
        return numbers
    keys = {row: _key(paths[row], seen[row]) for row in alike}
    wanted = {keys[row]: paths[row] for row in alike}
    known = _read(wanted) if cache_dir is None else _kept(wanted, root, cache_dir)
    first: dict[tuple[int, bytes], int] = {}
    for row in alike:
        if (digest := known.get(keys[row])) is not None:
            numbers[row] = first.setdefault((seen[row].st_size, digest), row)
    return numbers


class KeptDigests:
    """The SHA-256 of files that were read before, as long as their sizes and times are the same.

    Parameters
    ----------
    cache_dir : Path
        The site's cache.
    root : str
        The folder of the files: each has a file of its own in the cache.
    """

    def __init__(self, cache_dir: Path, root: str) -> None:
        name = hashlib.sha256(os.fsencode(root)).hexdigest()[:32]
        self._path = cache_dir / FOLDER / f"{name}-pictures.npz"
        self._known = _load(self._path)
        self._found: Known = {}

    def find(self, path: Path) -> tuple[bytes, str | None]:
        """Return what stands for the file as it is now, and its SHA-256 where that is known.

        Nothing stands for a file that is so young that it could change without a new time.
        """
        seen = _stat(path)
        if seen is None or max(seen.st_mtime_ns, seen.st_ctime_ns) >= time.time_ns() - _RACY:
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
                known = _load(self._path)
                # What other sites of the folder read stays, but not what has piled up.
                piled = len(known) > MOST_PILED * max(len(found), MOST_KEPT)
                _save(self._path, found if piled else known | found)
        except OSError as error:
            logger.warning("the digests of the data are not kept: %s", error)


def _kept(wanted: Mapping[bytes, Path], root: Path, cache_dir: Path) -> Known:
    """Return the digests of the wanted files, and keep those that had to be read."""
    name = hashlib.sha256(os.fsencode(root)).hexdigest()[:32]
    path = cache_dir / FOLDER / f"{name}.npz"
    try:
        private_folder(path.parent)
        with locked_folder(path.parent):  # the others wait, and then find all of it
            known = _load(path)
            missing = {key: file for key, file in wanted.items() if key not in known}
            if missing:
                known |= _read(missing)
                _save(path, _lasting(known, wanted))
            return known
    except OSError as error:
        logger.warning("the digests of the data are not kept: %s", error)
        return _read(wanted)


def _lasting(known: Known, wanted: Mapping[bytes, Path]) -> Known:
    """Return what may be kept: not of files so young that they could change without a new time."""
    old = time.time_ns() - _RACY
    young = set()
    for key, path in wanted.items():
        seen = _stat(path)
        if seen is None or max(seen.st_mtime_ns, seen.st_ctime_ns) >= old:
            young.add(key)
    # What other tasks of the folder wanted stays, but not what has piled up over the years.
    some = known if len(known) <= MOST_PILED * len(wanted) else wanted
    return {key: known[key] for key in some if key in known and key not in young}


def _key(path: Path, stat: os.stat_result) -> bytes:
    text = f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}\0{stat.st_ctime_ns}"
    return hashlib.blake2b(os.fsencode(text), digest_size=_KEY).digest()


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None


def _read(wanted: Mapping[bytes, Path]) -> Known:
    with ThreadPoolExecutor(MOST_THREADS) as pool:
        digests = zip(wanted, pool.map(_digest, wanted.values()), strict=True)
        return {key: digest for key, digest in digests if digest is not None}


def _digest(path: Path) -> bytes | None:
    try:
        with path.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").digest()
    except OSError:
        return None


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
    return {key.tobytes(): digest.tobytes() for key, digest in zip(keys, digests, strict=True)}


def _save(path: Path, known: Known) -> None:
    if not known:
        return
    keys = np.frombuffer(b"".join(known), dtype=np.uint8).reshape(-1, _KEY)
    digests = np.frombuffer(b"".join(known.values()), dtype=np.uint8).reshape(-1, 32)
    with replacing_private(path) as unfinished, unfinished.open("wb") as opened:
        np.savez(opened, keys=keys, digests=digests)
