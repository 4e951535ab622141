"""CSV and Parquet files become columns; damaged and large ones are refused."""

from __future__ import annotations

from contextlib import suppress
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client_app.data.arrays import stamp
from client_app.data.tabular.reading import Table, read_table
from fedstrata.support.errors import UserError

MIB = 1 << 20


def read(path: Path, largest: int = MIB) -> Table:
    return read_table(stamp(path), largest)


def parquet(path: Path, columns: dict[str, list[object]]) -> Path:
    import pyarrow
    from pyarrow import parquet as files

    files.write_table(pyarrow.table(columns), path)
    return path


COLUMNS = {
    "n": [1, None, 3],
    "x": [0.5, 1.5, None],
    "b": [True, False, None],
    "w": ["a", None, "b "],
}


def test_a_csv_file_is_read_by_column(tmp_path) -> None:
    (tmp_path / "t.csv").write_text("a,b\n1, x \n\n2,y\n", encoding="utf-8")
    table = read(tmp_path / "t.csv")
    assert {name: cells.tolist() for name, cells in table.columns.items()} == {
        "a": ["1", "2"],
        "b": ["x", "y"],
    }
    assert table.lines.tolist() == [2, 4]
    assert str(table.source(1)) == "a file in the data folder, line 4"


def test_a_parquet_file_is_read_by_column(tmp_path) -> None:
    columns = {**COLUMNS, "day": [date(2000, 1, 1)] * 3}
    table = read(parquet(tmp_path / "t.parquet", columns))
    assert table.columns["w"].tolist() == ["a", "", "b"]
    for name, expected in (("n", [1, np.nan, 3]), ("b", [1, 0, np.nan]), ("x", [0.5, 1.5, np.nan])):
        assert np.array_equal(table.columns[name], expected, equal_nan=True)
    assert table.unread == {"day": "date32[day]"}
    assert table.lines.tolist() == [1, 2, 3]


def test_a_file_without_rows_is_refused(tmp_path) -> None:
    (tmp_path / "t.csv").write_text("a,b\n", encoding="utf-8")
    for path in (tmp_path / "t.csv", parquet(tmp_path / "t.parquet", {"a": []})):
        with pytest.raises(UserError, match="no rows below the names"):
            read(path)


def test_a_small_file_that_unpacks_to_a_large_table_is_refused(tmp_path) -> None:
    path = parquet(tmp_path / "t.parquet", {"a": [0] * 1_000_000})
    assert path.stat().st_size < MIB / 10
    with pytest.raises(UserError, match=r"takes 8 MiB and data.largest_mb is 1"):
        read(path)


def test_a_large_file_is_refused_before_it_is_read(tmp_path) -> None:
    (tmp_path / "t.csv").write_bytes(b"x" * (MIB + 1))
    with pytest.raises(UserError, match=r"data.largest_mb is 1: raise it"):
        read(tmp_path / "t.csv")


@given(st.integers(0, 10_000), st.binary(min_size=1, max_size=8))
def test_a_damaged_parquet_file_is_refused_or_read(place: int, damage: bytes) -> None:
    with TemporaryDirectory() as folder:
        path = parquet(Path(folder) / "t.parquet", COLUMNS)
        content = bytearray(path.read_bytes())
        start = place % len(content)
        content[start : start + len(damage)] = damage
        path.write_bytes(content)
        with suppress(UserError):
            read(path)


def test_what_is_no_parquet_file_is_refused(tmp_path) -> None:
    (tmp_path / "t.parquet").write_bytes(b"no parquet")
    with pytest.raises(UserError, match="not a readable Parquet file"):
        read(tmp_path / "t.parquet")


def test_a_column_of_a_parquet_file_in_which_nothing_is_known_is_missing(tmp_path) -> None:
    table = read(parquet(tmp_path / "t.parquet", {"a": [1, 2], "b": [None, None]}))
    assert not table.unread
    assert np.isnan(table.columns["b"].astype(float)).all()
