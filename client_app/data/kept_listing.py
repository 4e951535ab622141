"""A simulation's listing of a folder on disk, so that each process of the machine need not list it."""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import sys
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath

import msgspec
import numpy as np

from client_app.data.findings import Findings
from client_app.data.labels import Targets
from client_app.data.split_names import SPLITS
from fedstrata.protocol.task_kinds import CLASSES, TaskKind
from fedstrata.support.durable import locked_folder, private_folder, replacing_private
from fedstrata.support.errors import PrivateText

FOLDER, SUFFIX = "listings", ".listing"
MOST = 8  # listings in a folder: those used last
LARGEST = 64 << 20  # bytes of one
_SPLITS = (None, *SPLITS)
_DIGEST = 32
logger = logging.getLogger("flwr")


@dataclass(frozen=True)
class Listing:
    """All pictures of a folder that have a label.

    Parameters
    ----------
    names : sequence of str
        The files, relative to the folder, as ``a/b.png``.
    splits : sequence of str or None
        What the data say; each ``train``, ``validation``, ``test`` or None.
    domains, groups : sequence of str
        As in `Entry`.
    group_by : str
        The column that says, or probably says, what belongs together; empty where there is none.
    targets : Targets
        What is predicted.
    """

    names: Sequence[str]
    splits: Sequence[str | None]
    domains: Sequence[str]
    groups: Sequence[str]
    group_by: str
    targets: Targets


class _Stored(msgspec.Struct, array_like=True, frozen=True):
    """A listing and its findings as they stand in a file."""

    names: bytes  # with a zero byte between them: no name has one, and not each is Unicode
    splits: bytes
    domains: list[str]
    groups: list[str]
    group_by: str
    classes: list[str]
    values: bytes
    left_out: dict[str, int]
    examples: dict[str, list[tuple[str, str]]]
    notes: list[tuple[str, str]]
    warnings: list[tuple[str, str]]


def listing_key(*parts: Hashable) -> str:
    """Return a SHA-256 of all that decides a listing: ``parts``, and the code that makes it."""
    return hashlib.sha256(repr((*parts, _code(), sys.version)).encode(errors="replace")).hexdigest()


def kept_listing(
    cache_dir: Path | None,
    key: str,
    again: Callable[[], str],
    kind: TaskKind,
    findings: Findings,
    make: Callable[[Findings], Listing],
) -> Listing:
    """Return the listing that another process kept in ``cache_dir``, with its findings; else make it.

    Parameters
    ----------
    cache_dir : Path or None
        Where listings are kept, for the owner alone; None for nowhere.
    key : str
        `listing_key` of the folder as it was a moment ago.
    again : callable
        Returns it as it is after ``make``: what changed meanwhile is not kept.
    kind : TaskKind
        Of the task.
    findings : Findings
        Notes what ``make`` found, now or the first time.
    make : callable
        Lists the folder.
    """
    if cache_dir is None:
        return make(findings)
    folder = cache_dir / FOLDER
    try:
        private_folder(folder)
        with locked_folder(folder):  # the others wait, and then find it
            if (found := _load(folder / f"{key}{SUFFIX}", key, kind)) is not None:
                listing, own = found
            else:
                listing, own = _made(make, findings)
                if again() == key:
                    _save(folder, key, listing, own)
    except OSError as error:
        logger.warning("the listing of the data is not kept: %s", error)
        listing, own = _made(make, findings)
    findings.add(own)
    return listing


def _made(make: Callable[[Findings], Listing], findings: Findings) -> tuple[Listing, Findings]:
    own = Findings()
    try:
        return make(own), own
    except BaseException:
        findings.add(own)  # what was found before the error is said
        raise


@lru_cache(maxsize=1)
def _code() -> str:
    """Return a SHA-256 of the files that read data: another version of them lists anew."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _texts(each: Sequence[PrivateText]) -> list[tuple[str, str]]:
    return [(text.whole, text.public) for text in each]


def _save(folder: Path, key: str, listing: Listing, findings: Findings) -> None:
    targets = listing.targets
    stored = _Stored(
        os.fsencode("\0".join(listing.names)),
        bytes(_SPLITS.index(each) for each in listing.splits),
        list(listing.domains),
        list(listing.groups),
        listing.group_by,
        list(targets.classes),
        targets.values.tobytes(),
        dict(findings.left_out),
        {reason: _texts(each) for reason, each in findings.examples.items()},
        _texts(findings.notes),
        _texts(findings.warnings),
    )
    try:
        content = msgspec.msgpack.encode(stored)
    except UnicodeEncodeError:  # names that are not Unicode, in a finding: listed each time
        return
    if len(content) > LARGEST:
        return
    with replacing_private(folder / f"{key}{SUFFIX}") as unfinished, unfinished.open("wb") as file:
        file.write(bytes.fromhex(key) + hashlib.sha256(content).digest() + content)
    kept = sorted(folder.glob(f"*{SUFFIX}"), key=lambda path: path.stat().st_mtime)
    for old in kept[:-MOST]:
        old.unlink(missing_ok=True)


def _load(path: Path, key: str, kind: TaskKind) -> tuple[Listing, Findings] | None:
    """Return what is kept; None where it is not there, damaged, or not of this user."""
    content = _content(path)
    if content is None:
        return None
    head, digest, body = content[:_DIGEST], content[_DIGEST : 2 * _DIGEST], content[2 * _DIGEST :]
    try:
        if head.hex() != key or hashlib.sha256(body).digest() != digest:
            raise ValueError("its checksum is another")
        stored = msgspec.msgpack.decode(body, type=_Stored)
        found = _listing(stored, kind), _findings(stored)
    except (ValueError, IndexError) as error:  # msgspec's errors are ValueErrors
        logger.warning("a kept listing is damaged and made again: %s: %s", path, error)
        return None
    with suppress(OSError):
        os.utime(path)  # those used last stay
    return found


def _content(path: Path) -> bytes | None:
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        descriptor = os.open(path, flags)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        seen = os.fstat(descriptor)
        own = stat.S_ISREG(seen.st_mode) and seen.st_uid == os.geteuid()
        return file.read() if own and seen.st_size <= LARGEST + 2 * _DIGEST else None


def _listing(stored: _Stored, kind: TaskKind) -> Listing:
    """Return the listing, or raise a ValueError where it is none."""
    names = os.fsdecode(stored.names).split("\0")
    count = len(names)
    if not count == len(stored.splits) == len(stored.domains) == len(stored.groups):
        raise ValueError("its columns are not of one length")
    for folder in {name.rpartition("/")[0] for name in names}:
        if folder.startswith("/") or ".." in PurePosixPath(folder).parts:
            raise ValueError("a name leads out of the folder")
    if any(name.endswith(("/", "/..")) or name in ("", "..") for name in names):
        raise ValueError("a name is that of no file")
    splits = [_SPLITS[each] for each in stored.splits]
    outputs = len(stored.classes)
    if kind.name == CLASSES:
        values = np.frombuffer(stored.values, dtype=np.int64)
        if values.shape != (count,) or not ((values >= 0) & (values < outputs)).all():
            raise ValueError("its classes are not those of its pictures")
        targets = Targets(np.arange(count), tuple(stored.classes), values, kind)
    else:
        numbers = np.frombuffer(stored.values, dtype=np.float32).reshape(count, outputs)
        targets = Targets(np.arange(count), tuple(stored.classes), numbers, kind)
    return Listing(names, splits, stored.domains, stored.groups, stored.group_by, targets)


def _findings(stored: _Stored) -> Findings:
    found = Findings()
    found.left_out.update(stored.left_out)
    for reason, texts in stored.examples.items():
        found.examples[reason] = [PrivateText(*each) for each in texts]
    found.notes = [PrivateText(*each) for each in stored.notes]
    found.warnings = [PrivateText(*each) for each in stored.warnings]
    return found
