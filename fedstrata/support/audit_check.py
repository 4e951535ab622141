"""Reads an audit log and says what was changed, taken out, put in or cut off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from fedstrata.support.audit import FIRST, GAP, Line, head_of, read_head, read_line, torn_fields


@dataclass
class Checked:
    """A log that was read.

    Parameters
    ----------
    lines : list of Line
        Those that can be read, as they stand in the file.
    problems : list of str
        What is wrong; empty where nothing was found.
    notes : list of str
        What a reader should know and what is not wrong.
    """

    lines: list[Line] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_and_verify(path: Path, keys: Sequence[Ed25519PublicKey] = ()) -> Checked:
    """Read a log and verify it.

    Without a key only the chain is verified, which whoever can write the file can make anew.
    Lines cut off at the end are found by the file beside the log, if it was not put back as well.

    Parameters
    ----------
    path : Path
        The log.
    keys : sequence of Ed25519PublicKey
        One of which must have signed each line.

    Raises
    ------
    OSError
        The file cannot be read.
    """
    verifier = _Verifier(keys)
    data = path.read_bytes()
    *whole, rest = data.split(b"\n")
    for number, line in enumerate(whole, start=1):
        verifier.take(number, line)
    if rest:
        verifier.unreadable += rest
        verifier.result.notes.append(f"the last line, of {len(rest)} bytes, is torn")
    verifier.end(path)
    return verifier.result


@dataclass
class _Verifier:
    """Takes the lines of a log one after the other."""

    keys: Sequence[Ed25519PublicKey]
    result: Checked = field(default_factory=Checked)
    unreadable: bytes = b""  # lines since the last that could be read
    seq: int = 0  # of the last line that is as it was written
    before: str | None = FIRST  # its digest; None where that cannot be known

    def take(self, number: int, data: bytes) -> None:
        """Verify line ``number`` of the file, without its newline."""
        line = read_line(data)
        if line is None:
            self.unreadable += data + b"\n"
            return
        self._explain_unreadable(number, line)
        self.result.lines.append(line)
        where = f"line {number} (seq {line.seq}, {line.event})"
        if not self._is_signed(line.signature, line.signed):
            how = "is not as it was signed" if line.signature else "is not signed"
            self._problem(f"{where} {how}: it was changed or put in")
            if line.seq == self.seq + 1:  # what is after it cannot know the line that was here
                self.seq, self.before = line.seq, None
            return
        if line.seq > self.seq + 1:
            self._problem(f"{_missing(self.seq + 1, line.seq - 1)} before {where}")
        elif line.seq <= self.seq:
            self._problem(f"{where} is out of order: it was moved, put in, or is there twice")
        elif self.before is not None and line.before != self.before:
            self._problem(f"{where} was written after another line than the one that is before it")
        self.seq, self.before = line.seq, line.digest
        # Lines that were missing then were reported by their numbers just now.
        if line.event == GAP and line.fields.get("why") in ("no head", "replaced"):
            self._problem(f"{where}: when it was written, {_said(line)}")

    def _explain_unreadable(self, number: int, line: Line) -> None:
        """Note lines that cannot be read where ``line`` records them; otherwise they are wrong."""
        torn, self.unreadable = self.unreadable, b""
        if not torn:
            return
        recorded = {"why": "torn", **torn_fields(torn)}
        if line.event == GAP and line.fields == recorded:
            self.result.notes.append(
                f"before line {number}: {len(torn)} bytes of a line that was not finished; the "
                "process or the machine stopped there"
            )
        else:
            self._problem(f"before line {number}: {len(torn)} bytes that are no line of a log")

    def end(self, path: Path) -> None:
        """Compare the end of the log with the file that names its last line."""
        if self.unreadable:
            self.result.notes.append(
                f"{len(self.unreadable)} bytes at the end are no whole line; the next line will say so"
            )
        head = read_head(path)
        if head is None or not self._is_signed(head.signature, head.signed):
            self._problem(
                f"{head_of(path)} is missing or is not as it was signed: lines that were cut off at "
                "the end cannot be seen"
            )
            return
        digests = {line.seq: line.digest for line in self.result.lines}
        if head.seq > max(digests, default=0):
            first = max(digests, default=0) + 1
            self._problem(f"{_missing(first, head.seq)} at the end")
        elif digests.get(head.seq) != head.digest:
            self._problem(f"the line of seq {head.seq} is not the one that {head_of(path)} names")

    def _is_signed(self, signature: bytes, signed: bytes) -> bool:
        """Return whether one of the keys signed; True where there are none to ask."""
        if not self.keys:
            return True
        for key in self.keys:
            try:
                key.verify(signature, signed)
            except InvalidSignature:
                continue
            return True
        return False

    def _problem(self, text: str) -> None:
        self.result.problems.append(text)


def _missing(first: int, last: int) -> str:
    if first == last:
        return f"the line of seq {first} is missing"
    return f"the lines of seq {first} to {last} are missing"


def _said(line: Line) -> str:
    if line.fields["why"] == "no head":
        return "the file that names the last line was gone"
    return f"the line of seq {line.fields.get('seq')} was not the one that had been written"
