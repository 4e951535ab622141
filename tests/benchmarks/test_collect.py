"""RESULTS.md and the tables are what the JSON of the measurements says."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks.collect import HERE, page
from benchmarks.report.tables import Figure, Table

RESULTS = sorted((HERE / "results").glob("*.json"))


def test_the_page_is_that_of_the_results() -> None:
    written = (HERE / "RESULTS.md").read_text()
    assert written == page(HERE / "results"), "write it: python -m benchmarks.collect"


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_tables_and_notes_are_those_of_the_json(path: Path) -> None:
    result = json.loads(path.read_text())
    written = path.with_suffix(".md").read_text()
    heads = [head for head, rule in pairwise(written.splitlines()) if rule.startswith("|---")]
    parts = []
    for head, each in zip(heads, result["tables"], strict=True):
        first = head.split(" | ")[0].removeprefix("| ")
        columns = (first, *next(iter(each["rows"].values())))
        rows = {
            name: tuple(
                Figure(tuple(cell["values"])) if isinstance(cell, dict) else cell
                for cell in row.values()
            )
            for name, row in each["rows"].items()
        }
        parts.append(Table(each["title"], columns, rows).markdown())
    assert written == "\n".join([*parts, *result["notes"]]) + "\n"
