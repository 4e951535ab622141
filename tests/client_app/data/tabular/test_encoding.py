"""Columns become inputs on one scale."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from client_app.data.cells import CellRules
from client_app.data.findings import Findings
from client_app.data.tabular.cells import TableRules
from client_app.data.tabular.encoding import Feature, encode, fill, scale_of, warn_of_columns
from client_app.data.tabular.reading import Table

RULES = TableRules(CellRules(), public=True)
FEATURES = (Feature("age"), Feature("cp", ("a", "b")))
ALL = np.arange(4)


@pytest.fixture
def encoded():
    cells = {"age": ["1", "", "3", "5"], "cp": ["a", "b", "", "a"]}
    columns = {name: np.array(each, dtype=object) for name, each in cells.items()}
    return encode(Table(Path("t.csv"), columns, {}, np.arange(4)), FEATURES, RULES)


def test_inputs_are_numbers_and_one_for_each_category(encoded) -> None:
    assert encoded.names == ("age", "cp=a", "cp=b")
    assert encoded.numbers.tolist() == [True, False, False]
    assert encoded.values[:, 1:].tolist() == [[1, 0], [0, 1], [0, 0], [1, 0]]
    assert encoded.incomplete.tolist() == [False, True, True, False]


def test_only_training_rows_fill_in(encoded) -> None:
    filled = fill(encoded, np.array([0, 2]), "mean")
    assert filled.values[:, 0].tolist() == [1, 2, 3, 5]


def test_a_column_without_a_value_becomes_zero(encoded) -> None:
    assert fill(encoded, np.array([1]), "mean").values[1, 0] == 0


def test_the_scale_is_that_of_numbers_in_training(encoded) -> None:
    mean, std = scale_of(fill(encoded, ALL, "mean"), np.array([0, 3]))
    assert mean.tolist() == [3, 0, 0]
    assert std.tolist() == [2, 1, 1]


def test_a_constant_number_keeps_its_scale(encoded) -> None:
    _, std = scale_of(fill(encoded, ALL, "mean"), np.array([0, 0]))
    assert std.tolist() == [1, 1, 1]


def test_few_rows_have_no_identifier(encoded) -> None:
    findings = Findings()
    warn_of_columns(encoded, ALL, findings)
    assert findings.warnings == []


def warned_of(*cells: str) -> list[str]:
    findings = Findings()
    columns = {"bp": np.array(cells, dtype=object)}
    table = Table(Path("t.csv"), columns, {}, np.arange(len(cells)))
    encoded = encode(table, (Feature("bp"),), RULES)
    warn_of_columns(encoded, np.arange(len(cells)), findings)
    return [warning.whole for warning in findings.warnings]


def test_a_code_for_what_is_not_known_is_a_warning() -> None:
    (warning,) = warned_of("120", "-999", "80", "-999.0", "140")
    assert "'bp' -999 (2 rows); if it is one, add it to data.missing" in warning
    assert warned_of("0", "1", "9999", "9999")
    assert not warned_of("120", "-999", "80")  # once, it can be anything
    assert not warned_of("-1", "0", "1", "-1")
    assert not warned_of("1", "-1", "1", "-1")
    assert not warned_of("900", "999", "999", "1200")
