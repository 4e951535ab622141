"""Cells become numbers or categories, or an error that names them."""

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client_app.data.cells import CellRules
from client_app.data.tabular.cells import (
    MISSING,
    TableRules,
    as_numbers,
    category_cells,
    missing_counts,
    number_cells,
    words,
)
from client_app.data.tabular.reading import Table
from fedstrata.support.errors import UserError

RULES = TableRules(CellRules(["?", "NA"]), public=True)


def table(*cells: object) -> Table:
    kind = object if all(isinstance(cell, str) for cell in cells) else np.float64
    lines = np.arange(2, len(cells) + 2)
    return Table(Path("/data/t.csv"), {"x": np.array(cells, dtype=kind)}, {}, lines)


def test_missing_cells_are_not_known_in_any_case() -> None:
    found = number_cells(table("1", "na", "?", "", "-2.5e1"), "x", RULES)
    assert np.isnan(found).tolist() == [False, True, True, True, False]
    assert found[[0, 4]].tolist() == [1, -25]


@pytest.mark.parametrize("cell", ["inf", "1_0", "0x1", "1e400", "\u0661", "1 2", "--1", "1,5"])
def test_what_is_no_plain_number_is_refused(cell: str) -> None:
    with pytest.raises(UserError, match=r"column 'x': 1 cell is no number \(.* in line 3\)"):
        number_cells(table("1", cell), "x", RULES)


@given(st.lists(st.text(max_size=8), min_size=1, max_size=8))
def test_any_text_is_a_number_or_is_refused(cells: list[str]) -> None:
    found = np.zeros(1)
    with suppress(UserError):
        found = number_cells(table(*cells), "x", RULES)
    assert not np.isinf(found).any()


@given(st.text(st.characters(codec="utf-8"), max_size=8))
def test_no_cell_leaves_the_site_in_an_error(cell: str) -> None:
    with pytest.raises(UserError) as raised:
        number_cells(table(f"LEE{cell}1961"), "x", RULES)
    assert "LEE" not in raised.value.public


@given(st.lists(st.floats(allow_infinity=False), min_size=1, max_size=8))
def test_numbers_come_back_as_they_were(values: list[float]) -> None:
    cells = ["" if math.isnan(value) else repr(value) for value in values]
    found, wrong = as_numbers(table(*cells).columns["x"], RULES)
    assert not wrong.size
    assert np.array_equal(found, np.array(values), equal_nan=True)


def test_a_category_is_found_by_its_word_or_its_value() -> None:
    found = category_cells(table("1", "2.0", "?", "02"), "x", ("1", "2"), RULES)
    assert found.tolist() == [0, 1, MISSING, 1]
    assert category_cells(table(1.0, math.nan, 2.0), "x", ("1", "2"), RULES).tolist() == [0, -1, 1]


def test_an_unknown_category_names_option_and_lines() -> None:
    with pytest.raises(UserError, match=r"data.categories.x has '1', '2'; add them") as raised:
        category_cells(table("1", "secret", "2"), "x", ("1", "2"), RULES)
    assert "('secret' in line 3)" in str(raised.value)
    assert "secret" not in raised.value.public


def test_the_name_of_a_column_that_nobody_configured_stays() -> None:
    rules = TableRules(CellRules(), public=False)
    with pytest.raises(UserError, match="column 'x'") as raised:
        number_cells(table("word"), "x", rules)
    assert "'x'" not in raised.value.public


def test_only_the_first_wrong_cells_are_named() -> None:
    with pytest.raises(UserError, match=r"12 cells are no number .* and 2 more"):
        number_cells(table(*["word"] * 12), "x", RULES)


def test_whole_numbers_are_words_without_a_point() -> None:
    assert words(np.array([1.0, math.nan, 2.5]), RULES) == ["1", "", "2.5"]


def test_missing_values_are_counted_by_column() -> None:
    assert missing_counts({"a": 2, "b": 0}) == "a 2"
