"""Which rows of a table are a site's, and which of them are the same."""

from __future__ import annotations

import numpy as np

from client_app.data.arrays import stamp
from client_app.data.cells import CellRules
from client_app.data.findings import Findings
from client_app.data.tabular.cells import TableRules
from client_app.data.tabular.reading import Table, read_table
from client_app.data.tabular.rows import copies_of, row_contents

RULES = TableRules(CellRules(), public=True)


def test_typed_columns_and_texts_say_alike_which_rows_are_the_same(tmp_path) -> None:
    numbers = np.array([1.0, 0.0, -0.0, np.nan, np.nan, 1.5, 1.0])
    words = ["1", "0", "0", "", "NA", "1.5", "1"]
    (tmp_path / "t.csv").write_text("\n".join(["a,b", *(f"{word},x" for word in words)]))
    written = read_table(stamp(tmp_path / "t.csv"), 1 << 20)
    typed = Table(written.path, {**written.columns, "a": numbers}, {}, written.lines)
    rows = np.arange(len(words))
    found = [
        copies_of(row_contents(table, rows, names, RULES), rows.tolist(), Findings()).tolist()
        for table, names in ((written, ["a", "b"]), (typed, ["a", "b"]), (typed, ["b", "a"]))
    ]
    assert found == [[0, 1, 1, 2, 2, 3, 0]] * 3


def test_rows_are_compared_in_the_order_that_is_asked(tmp_path) -> None:
    (tmp_path / "t.csv").write_text("a\n1\n2\n1\n")
    table = read_table(stamp(tmp_path / "t.csv"), 1 << 20)
    first, second = row_contents(table, np.array([2, 1]), ["a"], RULES)
    assert (first, second) == (("1",), ("2",))
