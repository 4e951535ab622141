"""Reads CSV files that nobody vouches for; every mistake in one is told with file and line."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from models.errors import UserError, nearest

SPLITS: Mapping[str, str] = {
    "train": "train",
    "validation": "validation",
    "val": "validation",
    "test": "test",
}
LARGEST = 256 << 20


def table_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield each row's line number and cells by column, without the blanks around them.

    Parameters
    ----------
    path : Path
        A UTF-8 file whose first row names the columns. Empty lines are passed over.
    columns : sequence of str
        The columns that must be there; there may be others.

    Raises
    ------
    UserError
        The file is larger than 256 MiB, no UTF-8 or no CSV, lacks a column or names one twice,
        or a row is not as wide as the header.
    """
    if path.stat().st_size > LARGEST:
        raise UserError(f"{path}: larger than {LARGEST >> 20} MiB")
    line = 1
    try:
        with path.open(encoding="utf-8-sig", newline="") as opened:
            reader = csv.reader(opened, strict=True)
            header = [column.strip() for column in next(reader, [])]
            _check_header(path, header, columns)
            for cells in reader:
                line = reader.line_num
                if not cells:
                    continue
                if len(cells) != len(header):
                    raise UserError(
                        f"{path}, line {line}: {len(cells)} cells, but the header has {len(header)}"
                    )
                yield line, dict(zip(header, map(str.strip, cells), strict=True))
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: is not UTF-8 after line {line} ({error.reason}); save it as UTF-8"
        ) from error
    except (csv.Error, OSError) as error:
        raise UserError(f"{path}: cannot be read after line {line} ({error})") from error


def split_of(row: Mapping[str, str], told: str) -> str | None:
    """Return ``train``, ``validation`` or ``test`` from a column ``split``, None without one."""
    split = row.get("split")
    if split is None:
        return None
    if split not in SPLITS:
        raise UserError(f"{told}: split {split!r} is not train, validation or test")
    return SPLITS[split]


def _check_header(path: Path, header: Sequence[str], columns: Sequence[str]) -> None:
    if len(set(header)) < len(header):
        raise UserError(f"{path}: the header names a column twice")
    for column in columns:
        if column not in header:
            raise UserError(f"{path}: no column {column!r}; there is {nearest(column, header)}")
