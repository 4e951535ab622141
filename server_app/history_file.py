"""The records of a run's rounds on disk: a line for each, in one file that only grows.

A checkpoint has how many lines belong to it and a checksum of them. So what a round costs does not
grow with the rounds before it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from fedstrata.support.checksums import Damaged
from fedstrata.support.durable import PRIVATE_FILE, sync

logger = logging.getLogger("flwr")
NAME = "history.jsonl"


class PlainRecord(dict[str, Any]):
    """A round's record as plain data, which nobody changes any more: its JSON is made once."""

    @cached_property
    def json(self) -> str:
        """The record as JSON; ValueError for a number that JSON does not have."""
        return json.dumps(self, allow_nan=False)

    @cached_property
    def memory(self) -> dict[Any, Any]:
        """What others remember of the rounds up to this one; it is not saved."""
        return {}


class HistoryFile:
    """The file of a run's records.

    Parameters
    ----------
    path : Path
        The file; its folder exists when it is written.
    results : Path
        The run's results.json: it has the records, too, and stands in where the file is damaged.
    """

    def __init__(self, path: Path, results: Path) -> None:
        self.path, self._results = path, results
        # Its lines, and after each the checksum up to there; None as long as that is not known.
        self._written: tuple[list[str], list[str]] | None = None

    def write(self, history: Sequence[Mapping[str, Any]]) -> str:
        """Make the file the records of ``history``, durably; return their checksum.

        What is there already stays as it is. Records of rounds that were given up are cut off.
        """
        records = (each if isinstance(each, PlainRecord) else PlainRecord(each) for each in history)
        lines = [record.json for record in records]
        before, sums = self._known()
        same = next(
            (n for n, (old, new) in enumerate(zip(before, lines, strict=False)) if old != new),
            min(len(before), len(lines)),
        )
        self._written = None  # not known where this fails
        is_new = not self.path.exists()
        with os.fdopen(os.open(self.path, os.O_RDWR | os.O_CREAT, PRIVATE_FILE), "r+b") as file:
            os.fchmod(file.fileno(), PRIVATE_FILE)  # whatever the umask
            file.truncate(file.seek(sum(len(line) + 1 for line in lines[:same])))
            file.write("".join(f"{line}\n" for line in lines[same:]).encode("ascii"))
            file.flush()
            os.fsync(file.fileno())
        if is_new:
            sync(self.path.parent)
        sums = [*sums[:same], *checksums(lines[same:], sums[same - 1] if same else "")]
        self._written = lines, sums
        return sums[-1] if sums else ""

    def read(self, count: int, expected: str) -> list[PlainRecord]:
        """Return the first ``count`` records.

        Raises
        ------
        OSError, ValueError, RecursionError
            There is no such file, or they are not those with the checksum ``expected``.
        """
        if (found := _as_written(self._lines(), count, expected)) is not None:
            return found
        if (found := _as_written(self._lines_of_results(), count, expected)) is not None:
            logger.error("%s is damaged; its records are taken from %s", self.path, self._results)
            return found
        raise Damaged(f"the first {count} lines of {NAME} are not those that were written")

    def _known(self) -> tuple[list[str], list[str]]:
        if self._written is None:
            lines = self._lines()
            return lines, list(checksums(lines))
        return self._written

    def _lines(self) -> list[str]:
        """Return the whole lines; the last one may have been cut off in a crash."""
        try:
            text = self.path.read_bytes().decode("ascii", errors="replace")
        except FileNotFoundError:
            return []
        return text.split("\n")[:-1]

    def _lines_of_results(self) -> list[str]:
        """Return the lines of the records in results.json; none where it cannot be read."""
        try:
            rounds = json.loads(self._results.read_text())["rounds"]
            return [PlainRecord(record).json for record in rounds]
        except (OSError, ValueError, TypeError, LookupError, RecursionError):
            return []


def _as_written(lines: list[str], count: int, expected: str) -> list[PlainRecord] | None:
    """Return the first ``count`` records, or None if they do not have the checksum ``expected``."""
    lines = lines[:count]
    found = list(checksums(lines))
    if len(lines) < count or (found[-1] if found else "") != expected:
        return None
    return [PlainRecord(json.loads(line)) for line in lines]


def checksums(lines: Iterable[str], before: str = "") -> Iterator[str]:
    """Yield after each line the SHA-256, in hexadecimal, of the one before it and of the line."""
    for line in lines:
        before = hashlib.sha256(f"{before}{line}".encode()).hexdigest()
        yield before
