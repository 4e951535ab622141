"""Reads untrusted CSV files and reports every mistake with file and line."""

from __future__ import annotations

import codecs
import csv
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from client_app.data.cells import normal
from client_app.data.paths import describe_file
from client_app.data.split_names import split_named
from fedstrata.support.errors import PrivateText, UserError, nearest, private

LARGEST = 256 << 20  # bytes of a file
DELIMITERS = (",", ";", "\t", "|")
_TEXT = ("utf-8", "utf-16", "utf-32", "iso8859", "cp", "mac-", "gb", "big5", "shift", "euc", "koi8")
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

_ARCHIVES = {
    b"PK\x03\x04": "an Excel workbook or a ZIP archive",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook",
    b"\x1f\x8b": "compressed by gzip",
    b"PAR1": "a Parquet file",
}


@dataclass(frozen=True)
class TableFormat:
    """How a CSV file is written.

    Parameters
    ----------
    delimiter : str or None
        What stands between cells; None finds out which of `DELIMITERS` the header has.
    encoding : str or None
        Such as ``cp1252``; None takes UTF-8, or what a byte order mark says.
    """

    delimiter: str | None = None
    encoding: str | None = None

    def __post_init__(self) -> None:
        if self.delimiter is not None and (len(self.delimiter) != 1 or self.delimiter in '"\r\n'):
            raise UserError(
                f"data.delimiter: one character, as in ';', or null, not {self.delimiter[:20]!r}"
            )
        if self.encoding is None:
            return
        try:
            known = codecs.lookup(self.encoding).name
        except (LookupError, ValueError):
            known = ""
        if not (known.startswith(_TEXT) or known == "ascii"):
            raise UserError(
                f"data.encoding: {self.encoding[:40]!r} is none that is read; write utf-8, cp1252 "
                "or latin-1, or null"
            )


FOUND = TableFormat()


def table_rows(
    path: Path, columns: Sequence[str], written: TableFormat = FOUND
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield each row's line number and its cells by column, without surrounding blanks.

    Parameters
    ----------
    path : Path
        A file whose first row names the columns. Empty lines are skipped, and so is Excel's line
        ``sep=;`` before the header.
    columns : sequence of str
        The columns that must exist; others may exist too.
    written : TableFormat
        Delimiter and encoding.

    Raises
    ------
    UserError
        The file is too large, has another encoding or is not CSV; a column is missing or named
        twice; or a row has more or fewer cells than the header.
    """
    if path.stat().st_size > LARGEST:
        raise UserError(describe_file(path) + f": larger than {LARGEST >> 20} MiB")
    columns = [normal(column) for column in columns]
    _reject_archive(path)
    line = 1
    try:
        with path.open(encoding=written.encoding or _marked(path), newline="") as opened:
            first = opened.readline()
            skipped = first.strip().lower().startswith("sep=") and len(first.strip()) == 5
            if not skipped:
                opened.seek(0)
            delimiter = written.delimiter or (first.strip()[4] if skipped else None)
            delimiter = delimiter or _delimiter(first, columns)
            reader = csv.reader(opened, strict=True, delimiter=delimiter)
            header = [normal(column.removeprefix("\ufeff")) for column in next(reader, [])]
            _check_header(path, header, columns)
            for cells in reader:
                line = reader.line_num + skipped
                if not cells:
                    continue
                if len(cells) != len(header):
                    wide = f": {len(cells)} cells, but the header has {len(header)}"
                    raise UserError(describe_line(path, line) + wide)
                yield line, dict(zip(header, map(str.strip, cells), strict=True))
    except UnicodeError as error:
        name = written.encoding or "UTF-8"
        why = private(f" ({getattr(error, 'reason', error)})")
        raise UserError(
            describe_file(path) + f": is not {name} after line {line}" + why + "; save it as UTF-8"
            ", or name what it is, as in data.encoding=cp1252 (Excel's own in Western Europe)"
        ) from error
    except (csv.Error, OSError) as error:
        why = private(f" ({error})")
        raise UserError(
            describe_file(path) + f": cannot be read after line {line}" + why
        ) from error


def header_of(path: Path, written: TableFormat = FOUND) -> list[str]:
    """Return the names of the columns of a file that `table_rows` reads; empty without rows."""
    for _, row in islice(table_rows(path, [], written), 1):
        return list(row)
    return []


def describe_line(path: Path, line: int) -> PrivateText:
    """Return file and line for an error text."""
    return describe_file(path) + f", line {line}"


def row_split(
    row: Mapping[str, str], source: PrivateText, own: Mapping[str, str] | None = None
) -> str | None:
    """Return ``train``, ``validation`` or ``test`` from the column ``split``, or None without it.

    ``source`` says where the row is, for the error text; ``own`` is ``data.split_names``.
    """
    split = row.get("split")
    if split is None:
        return None
    known = split_named(split, own)
    if known is None:
        raise UserError(
            source + ": " + private(f"split {split!r}", "the split") + " is not train, "
            "validation or test"
        )
    return known


def _reject_archive(path: Path) -> None:
    """Raise a `UserError` for a file of a spreadsheet, or a compressed one, under a table's name."""
    try:
        with path.open("rb") as opened:
            first = opened.read(4)
    except OSError:
        return  # it is said where the file is read
    for start, what in _ARCHIVES.items():
        if first.startswith(start):
            raise UserError(describe_file(path) + f": is {what}, not text; save it as CSV (UTF-8)")


def _marked(path: Path) -> str:
    """Return the encoding that the file's byte order mark says; UTF-8 without one."""
    with path.open("rb") as opened:
        first = opened.read(4)
    return next((name for mark, name in _MARKS if first.startswith(mark)), "utf-8")


def _delimiter(header: str, columns: Sequence[str]) -> str:
    """Return the delimiter with which the header has most of the columns, and most cells."""

    def found(delimiter: str) -> tuple[int, int]:
        try:
            names = next(csv.reader([header], delimiter=delimiter), [])
        except csv.Error:
            return 0, 0
        names = [normal(name.removeprefix("\ufeff")) for name in names]
        return len(set(columns) & set(names)), len(names)

    return max(DELIMITERS, key=found)  # the first of equals: a comma


def _check_header(path: Path, header: Sequence[str], columns: Sequence[str]) -> None:
    # Spreadsheets add columns without a name.
    twice = [name for name, many in Counter(filter(None, header)).items() if many > 1]
    if twice:
        which = private(f": {', '.join(map(repr, twice[:5]))}; rename or remove one")
        raise UserError(describe_file(path) + ": the header names a column twice" + which)
    for column in columns:
        if column not in header:
            # Where a file has no header, this is its first row of data, which must not leave.
            alike = [name for name in header if name.casefold() == column.casefold()]
            there = private(f"; there is {nearest(column, alike or header)}")
            raise UserError(describe_file(path) + f": no column {column!r}" + there)
