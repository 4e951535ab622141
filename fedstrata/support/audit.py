"""An append-only log of JSON lines: each has the hash of the line before, and a signature.

A line is ``{"seq", "time", "event", "fields", "before", "signature"}``, written in one form only, so
that any changed character is seen. ``before`` is the SHA-256 of the whole line before, or zeros.
Beside the log, ``NAME.head`` names its last line: without that a cut tail could not be seen.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedstrata.support.durable import replacing, sync

PURPOSE = b"fedstrata audit log v1\n"  # so that a signature means this and nothing else
FIRST = "0" * 64  # what the first line has for the hash of the line before it
GAP = "gap"  # the event of a line that says what was wrong with the log before it
MOST_LINE = 64 * 1024  # bytes; a line of a round has some 600
_KEYS = ("seq", "time", "event", "fields", "before")


@dataclass(frozen=True)
class Line:
    """One line of a log, in the form in which it is written; its signature is not checked here.

    Parameters
    ----------
    seq : int
        Its number, from 1, without gaps.
    time : str
        UTC, in ISO 8601.
    event : str
        What happened.
    fields : dict
        Plain values that belong to the event.
    before : str
        SHA-256 of the line before.
    signature : bytes
        Empty where the log has no key.
    signed : bytes
        What the signature is over.
    digest : str
        SHA-256 of the whole line.
    """

    seq: int
    time: str
    event: str
    fields: dict[str, Any]
    before: str
    signature: bytes
    signed: bytes
    digest: str


@dataclass(frozen=True)
class Head:
    """The last line of a log, as the file beside it names it."""

    seq: int
    digest: str
    signature: bytes
    signed: bytes


class AuditLog:
    """A log to append to; several processes may.

    What an earlier process left in the log is looked at first. Where its last line is torn, or
    lines are gone that the head names, the next line is a `GAP` that says so.

    Parameters
    ----------
    path : Path
        The file; it and its folder are made where they are missing, for their owner alone.
    key : Ed25519PrivateKey or None
        Signs each line.
    """

    def __init__(self, path: Path, key: Ed25519PrivateKey | None = None) -> None:
        self.path, self.key = path, key
        self._size = -1  # of the file after our last line; another means that it is read again
        self._seq, self._digest = 0, FIRST

    def append(self, event: str, **fields: Any) -> None:
        """Write a line; when this returns it is on the disk.

        Raises
        ------
        OSError
            It could not be written: no room, or no permission.
        ValueError
            ``fields`` are no plain values, or too many.
        """
        with self._opened() as file:
            if os.fstat(file).st_size != self._size:
                self._read_end(file)
            self._write(file, event, fields)

    @contextmanager
    def _opened(self) -> Iterator[int]:
        """Yield the open file, which nobody else writes to during the block."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        is_new = not self.path.exists()
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        file = os.open(self.path, flags, 0o600)
        try:
            if is_new:
                self._give_to_owner(file)
                sync(self.path.parent)
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file
        except BaseException:
            self._size = -1  # part of a line may be there
            raise
        finally:
            os.close(file)  # gives the lock back

    def _write(self, file: int, event: str, fields: Mapping[str, Any]) -> None:
        record = {
            "seq": self._seq + 1,
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "event": event,
            "fields": dict(fields),
            "before": self._digest,
        }
        line = _signed(record, self.key)
        if len(line) > MOST_LINE:
            raise ValueError(f"a line of {len(line)} bytes; at most {MOST_LINE} are written")
        _write_all(file, line + b"\n")
        os.fsync(file)
        self._seq, self._digest = self._seq + 1, hashlib.sha256(line).hexdigest()
        self._size = os.fstat(file).st_size
        head = _signed({"seq": self._seq, "digest": self._digest}, self.key)
        with replacing(head_of(self.path)) as path:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as written:
                self._give_to_owner(descriptor)
                written.write(head)

    def _give_to_owner(self, file: int) -> None:
        """Give a file to the folder's owner: an administrator writes here too, with a command."""
        owner = self.path.parent.stat()
        if os.geteuid() != owner.st_uid:
            os.fchown(file, owner.st_uid, owner.st_gid)

    def _read_end(self, file: int) -> None:
        """Find the last line; record what is wrong with the end of the log."""
        size = os.fstat(file).st_size
        if size and os.pread(file, 1, size - 1) != b"\n":
            _write_all(file, b"\n")  # what is torn stays, as a line of its own
        last, torn = _last_line(file)
        self._seq, self._digest = (last.seq, last.digest) if last else (0, FIRST)
        gaps: list[dict[str, Any]] = []
        if torn:
            gaps.append({"why": "torn", **torn_fields(torn)})
        head = read_head(self.path)
        if head is None and last is not None:
            gaps.append({"why": "no head", "seq": self._seq})
        elif head is not None and head.seq > self._seq:
            gaps.append({"why": "missing", "first": self._seq + 1, "last": head.seq})
            self._seq, self._digest = head.seq, head.digest
        elif head is not None and head.seq == self._seq and head.digest != self._digest:
            gaps.append({"why": "replaced", "seq": self._seq, "was": head.digest})
        for gap in gaps:
            self._write(file, GAP, gap)


def torn_fields(torn: bytes) -> dict[str, Any]:
    """Return how a gap describes lines that cannot be read, by which they are found again."""
    return {"bytes": len(torn), "sha256": hashlib.sha256(torn).hexdigest()}


def head_of(log: Path) -> Path:
    """Return the file beside a log that names its last line."""
    return log.with_name(log.name + ".head")


def read_line(line: bytes) -> Line | None:
    """Return a line of a log, without its newline; None unless it is in the form of this module."""
    record, signature, signed = _parsed(line)
    if tuple(record) != _KEYS:
        return None
    kinds = (int, str, str, dict, str)
    if not all(type(record[key]) is kind for key, kind in zip(_KEYS, kinds, strict=True)):
        return None
    digest = hashlib.sha256(line).hexdigest()
    return Line(**record, signature=signature, signed=signed, digest=digest)


def read_head(log: Path) -> Head | None:
    """Return what the file beside a log says of its last line; None where that cannot be read."""
    try:
        record, signature, signed = _parsed(head_of(log).read_bytes())
    except OSError:
        return None
    if tuple(record) != ("seq", "digest") or type(record["seq"]) is not int:
        return None
    return Head(record["seq"], str(record["digest"]), signature, signed)


def _signed(record: Mapping[str, Any], key: Ed25519PrivateKey | None) -> bytes:
    text = _text(record)
    if key is None:
        return text
    signature = base64.b64encode(key.sign(PURPOSE + text)).decode()
    return _text({**record, "signature": signature})


def _parsed(line: bytes) -> tuple[dict[str, Any], bytes, bytes]:
    """Return record, signature and what that is over; an empty record for any other form."""
    nothing: tuple[dict[str, Any], bytes, bytes] = {}, b"", b""
    try:
        record = json.loads(line)
        if not isinstance(record, dict) or _text(record) != line:
            return nothing
        signature = base64.b64decode(str(record.pop("signature", "")), validate=True)
        return record, signature, PURPOSE + _text(record)
    except (ValueError, RecursionError):
        return nothing


def _text(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, allow_nan=False, separators=(",", ":")).encode()


def _write_all(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]


def _last_line(file: int) -> tuple[Line | None, bytes]:
    """Return the last line that can be read, and all bytes after it."""
    size, length = os.fstat(file).st_size, MOST_LINE
    while True:
        begin = max(0, size - length)
        *lines, _ = os.pread(file, size - begin, begin).split(b"\n")
        # The first of them may have begun before.
        for number in range(len(lines) - 1, -1 if begin == 0 else 0, -1):
            if line := read_line(lines[number]):
                return line, b"".join(each + b"\n" for each in lines[number + 1 :])
        if begin == 0:
            return None, b"".join(each + b"\n" for each in lines)
        length *= 8
