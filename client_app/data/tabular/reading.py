"""Reads a table from an untrusted CSV or Parquet file, column by column."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from client_app.data.arrays import Stamp
from client_app.data.paths import describe_file
from client_app.data.tables import FOUND, TableFormat, describe_line, table_rows
from fedstrata.support.errors import PrivateText, UserError, private

if TYPE_CHECKING:
    import pyarrow as arrow

SUFFIXES = (".csv", ".tsv", ".txt", ".parquet")
BYTES_PER_CELL = 8
_AT_ONCE = 65_536  # rows of a Parquet file

Cells = NDArray[Any]  # float64 with NaN where nothing is, or objects of type str


@dataclass(frozen=True)
class Table:
    """A file's columns, each of ``n`` cells.

    Parameters
    ----------
    path : Path
        The file.
    columns : mapping of str to NDArray
        By name: texts without blanks around them, or float64 from a file that has types.
    unread : mapping of str to str
        Columns of a type that is neither number nor text, and the type.
    lines : NDArray[np.int64]
        Of a CSV file, each row's line; of a Parquet file, the row's number from 1 on.
    """

    path: Path
    columns: Mapping[str, Cells]
    unread: Mapping[str, str]
    lines: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.lines)

    def source(self, row: int) -> PrivateText:
        """Return file and line of a row, for an error text."""
        return describe_line(self.path, int(self.lines[row]))


@lru_cache(maxsize=64)
def read_table(stamped: Stamp, largest: int, written: TableFormat = FOUND) -> Table:
    """Return the table in a file; it is read once until the file changes.

    Parameters
    ----------
    stamped : Stamp
        The file. Its suffix says whether it is a Parquet file.
    largest : int
        The most bytes that the file may have, and its columns may take as numbers.
    written : TableFormat
        Delimiter and encoding of a CSV file.

    Raises
    ------
    UserError
        The file cannot be read, is too large, or has no row.
    """
    path, _, size = stamped
    if size > largest:
        raise _too_large(path, size, largest)
    parquet = path.suffix.lower() == ".parquet"
    table = _read_parquet(path, largest) if parquet else _read_csv(path, written)
    if not len(table):
        raise UserError(describe_file(path) + ": no rows below the names of the columns")
    return table


def _too_large(path: Path, size: int, largest: int) -> UserError:
    return UserError(
        describe_file(path) + f": takes {size / 2**20:,.0f} MiB and data.largest_mb is "
        f"{largest >> 20}: raise it, or leave out columns or rows"
    )


def _read_csv(path: Path, written: TableFormat) -> Table:
    columns: dict[str, list[str]] = {}
    lines: list[int] = []
    # Cells repeat, and one text for all that are equal takes a fraction of the memory.
    seen: dict[str, str] = {}
    for line, row in table_rows(path, (), written):
        columns = columns or {name: [] for name in row}
        for name, cell in row.items():
            columns[name].append(seen.setdefault(cell, cell))
        lines.append(line)
    arrays = {name: np.array(cells, dtype=object) for name, cells in columns.items()}
    return Table(path, arrays, {}, np.array(lines, dtype=np.int64))


def _read_parquet(path: Path, largest: int) -> Table:
    # pyarrow raises many kinds of exception for damaged files; all mean that this file is damaged.
    try:
        return _open_parquet(path, largest)
    except UserError:
        raise
    except Exception as error:
        reason = private(f" ({str(error)[:200] or type(error).__name__})")
        raise UserError(describe_file(path) + ": not a readable Parquet file" + reason) from error


def _open_parquet(path: Path, largest: int) -> Table:
    from pyarrow import parquet

    with parquet.ParquetFile(path) as opened:
        schema = opened.schema_arrow
        texts = [field.name for field in schema if _is_text(field.type)]
    # As dictionaries: a long text that a small file repeats is in memory once.
    with parquet.ParquetFile(path, read_dictionary=texts) as opened:
        names = [field.name for field in schema]
        if len(set(names)) < len(names):
            raise UserError(describe_file(path) + ": two columns have the same name")
        read = [n for n in names if n in texts or _is_number(schema.field(n).type)]
        unread = {name: str(schema.field(name).type)[:40] for name in names if name not in read}
        rows = opened.metadata.num_rows
        groups = (opened.metadata.row_group(g) for g in range(opened.metadata.num_row_groups))
        claimed = max(
            rows * max(len(read), 1) * BYTES_PER_CELL, sum(g.total_byte_size for g in groups)
        )
        if claimed > largest:
            raise _too_large(path, claimed, largest)
        parts: dict[str, list[Cells]] = {name: [] for name in read}
        for batch in opened.iter_batches(_AT_ONCE, columns=read):
            for name, values in zip(read, batch.columns, strict=True):
                parts[name].append(_cells(values, name in texts))
    columns = {
        name: np.concatenate(cells) if cells else np.empty(0) for name, cells in parts.items()
    }
    return Table(path, columns, unread, np.arange(1, rows + 1, dtype=np.int64))


def _is_text(kind: arrow.DataType) -> bool:
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    return bool(types.is_string(kind) or types.is_large_string(kind))


def _is_number(kind: arrow.DataType) -> bool:
    from pyarrow import types

    return bool(
        types.is_integer(kind)
        or types.is_floating(kind)
        or types.is_boolean(kind)
        or types.is_decimal(kind)
        or types.is_null(kind)  # of a column in which nothing is known
    )


def _cells(values: Any, is_text: bool) -> Cells:
    """Return a pyarrow array as texts ("" where nothing is) or float64 (NaN where nothing is)."""
    if is_text:
        words = [(word or "").strip() for word in values.dictionary.to_pylist()]
        codes = values.indices.to_pylist()
        return np.array([*("" if code is None else words[code] for code in codes)], dtype=object)
    import pyarrow as arrow

    numbers = values.cast(arrow.float64(), safe=False)
    return np.asarray(numbers.to_numpy(zero_copy_only=False), dtype=np.float64)
