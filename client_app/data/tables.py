"""Reads untrusted CSV files and reports every mistake with file and line."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from client_app.data.paths import describe_file
from fedstrata.support.errors import PrivateText, UserError, nearest, private

SPLITS: Mapping[str, str] = {
    "train": "train",
    "validation": "validation",
    "val": "validation",
    "test": "test",
}
LARGEST = 256 << 20  # bytes of a file


def table_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield each row's line number and its cells by column, without surrounding blanks.

    Parameters
    ----------
    path : Path
        A UTF-8 file whose first row names the columns. Empty lines are skipped.
    columns : sequence of str
        The columns that must exist; others may exist too.

    Raises
    ------
    UserError
        The file is too large, not UTF-8 or not CSV; a column is missing or named twice; or a
        row has more or fewer cells than the header.
    """
    if path.stat().st_size > LARGEST:
        raise UserError(describe_file(path) + f": larger than {LARGEST >> 20} MiB")
    line = 1
    try:
        # Spreadsheets write a byte order mark, which "utf-8-sig" drops.
        with path.open(encoding="utf-8-sig", newline="") as opened:
            reader = csv.reader(opened, strict=True)
            header = [column.strip() for column in next(reader, [])]
            _check_header(path, header, columns)
            for cells in reader:
                line = reader.line_num
                if not cells:
                    continue
                if len(cells) != len(header):
                    wide = f": {len(cells)} cells, but the header has {len(header)}"
                    raise UserError(describe_line(path, line) + wide)
                yield line, dict(zip(header, map(str.strip, cells), strict=True))
    except UnicodeDecodeError as error:
        why = private(f" ({error.reason})")
        raise UserError(
            describe_file(path) + f": is not UTF-8 after line {line}" + why + "; save it as UTF-8"
        ) from error
    except (csv.Error, OSError) as error:
        why = private(f" ({error})")
        raise UserError(
            describe_file(path) + f": cannot be read after line {line}" + why
        ) from error


def describe_line(path: Path, line: int) -> PrivateText:
    """Return file and line for an error text."""
    return describe_file(path) + f", line {line}"


def row_split(row: Mapping[str, str], source: PrivateText) -> str | None:
    """Return ``train``, ``validation`` or ``test`` from the column ``split``, or None without it.

    ``source`` says where the row is, for the error text.
    """
    split = row.get("split")
    if split is None:
        return None
    if split not in SPLITS:
        raise UserError(
            source + ": " + private(f"split {split!r}", "the split") + " is not train, "
            "validation or test"
        )
    return SPLITS[split]


def _check_header(path: Path, header: Sequence[str], columns: Sequence[str]) -> None:
    if len(set(header)) < len(header):
        raise UserError(describe_file(path) + ": the header names a column twice")
    for column in columns:
        if column not in header:
            # Where a file has no header, this is its first row of data, which must not leave.
            there = private(f"; there is {nearest(column, header)}")
            raise UserError(describe_file(path) + f": no column {column!r}" + there)
