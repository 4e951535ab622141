"""A row that the model cannot read is left out by its line; the other rows of the table are used."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client_app.model_tables import read_rows
from fedstrata.support.errors import UserError
from models.preprocessing import Column, Table

AGE, PLACE = Column("age", (), 40.0, gaps=3), Column("place", ("ward", "home"), None, gaps=0)


def described(
    *columns: Column, impute: Literal["mean", "indicator", "drop"] = "mean", decimal: str = "."
) -> Table:
    width = sum(max(len(each.categories), 1) for each in columns)
    width += len(columns) if impute == "indicator" else 0
    return Table(
        columns,
        ("", "?"),
        decimal,  # type: ignore[arg-type]
        impute,
        (0.0,) * width,
        (1.0,) * width,
    )


def table(folder: Path, *rows: str) -> Path:
    path = folder / "t.csv"
    path.write_text("\n".join(["age,place", *rows]) + "\n", encoding="utf-8")
    return path


def test_an_unknown_category_and_a_word_for_a_number_cost_their_rows_alone(tmp_path: Path) -> None:
    path = table(tmp_path, "30,ward", "40,street", "old,home", "50,home", "inf,street")
    found = read_rows(described(AGE, PLACE), path)
    assert found.lines == (2, 5)
    assert found.values.tolist() == [[30, 1, 0], [50, 0, 1]]
    category, word, both = found.wrong
    assert f"{path}, line 3: column 'place' is 'street', no category of the model" in category
    assert "which has 'ward', 'home'" in category
    assert "line 4: column 'age' is 'old', no number" in word
    assert "line 6" in both
    assert "'inf'" in both
    assert "'street'" in both


@pytest.mark.parametrize(
    ("columns", "impute", "lines"),
    [
        ((AGE, PLACE), "mean", (2, 3)),  # a category always had a value in the training
        ((AGE, Column("place", ("ward", "home"), None, gaps=2)), "mean", (2, 3, 4)),
        ((AGE, Column("place", ("ward", "home"))), "mean", (2, 3, 4)),  # an older card
        ((Column("age", (), 40.0, gaps=0),), "mean", (2, 3, 4)),
        ((Column("age", (), 40.0, gaps=0),), "indicator", (2, 4)),
        ((AGE, PLACE), "drop", (2,)),
    ],
)
def test_a_gap_of_which_the_training_had_none_costs_its_row(
    tmp_path: Path, columns: tuple[Column, ...], impute: str, lines: tuple[int, ...]
) -> None:
    path = table(tmp_path, "30,ward", "?,home", "50,")
    found = read_rows(described(*columns, impute=impute), path)  # type: ignore[arg-type]
    assert found.lines == lines
    assert len(found.wrong) == 3 - len(lines)
    assert all("has no value, and " in text for text in found.wrong)


def test_the_runs_own_rows_are_read_as_the_run_did(tmp_path: Path) -> None:
    path = table(tmp_path, "30,ward", "?,", "50,street")
    found = read_rows(described(AGE, PLACE), path, of_run=[2, 3])
    assert found.lines == (2, 3)
    assert found.values.tolist() == [[30, 1, 0], [40, 0, 0]]
    assert found.wrong == ()


def test_another_decimal_mark_is_named(tmp_path: Path) -> None:
    path = table(tmp_path, "30.5,ward")
    found = read_rows(described(AGE, PLACE, decimal=","), path)
    assert found.lines == ()
    assert found.values.shape == (0, 3)
    assert "no number with the decimal mark ','" in found.wrong[0]


def test_a_table_without_a_column_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no column 'weight'"):
        read_rows(described(AGE, Column("weight")), table(tmp_path, "30,ward"))


@given(cells=st.lists(st.text(st.characters(codec="utf-8"), max_size=6), min_size=1, max_size=5))
def test_whatever_stands_in_cells_each_row_is_used_or_named(cells: list[str]) -> None:
    quoted = ['"' + cell.replace('"', '""') + '"' for cell in cells]
    with tempfile.TemporaryDirectory() as folder:
        path = table(Path(folder), *(f"{cell},{cell}" for cell in quoted))
        try:
            found = read_rows(described(AGE, PLACE), path)
        except UserError:
            return  # not CSV
    assert len(found.lines) + len(found.wrong) == len(cells)
    assert np.isfinite(found.values).all()
