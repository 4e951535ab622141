"""What the log says at the end follows from the sites that can be compared."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from server_app.report import final_table, owed_line, round_line
from server_app.rounds.records import RoundRecord
from tests.helpers.members import member, round_report


def site(accuracy: float, alone: float | None, examples: int = 10) -> dict[str, Any]:
    return {
        "task": "grade",
        "accuracy": accuracy,
        "balanced_accuracy": accuracy,
        "auroc": None,
        "majority_accuracy": 0.5,
        "alone_accuracy": alone,
        "examples": examples,
    }


def test_sites_stand_beside_themselves_alone_and_in_one_place() -> None:
    sites = {
        "a": {**site(0.9, 0.85), "pooled_accuracy": 0.95},
        "b": {**site(0.6, None), "pooled_accuracy": None},
    }
    table = final_table({"sites": sites})
    assert table.count("+5.00") == 1
    assert "95.00 %" in table
    (row,) = (line for line in table.splitlines() if " b " in line)
    assert row.count(" - ") == 4  # no AUROC, not alone, no gain, not in one place


def test_of_many_sites_those_that_gained_least_are_shown() -> None:
    sites = {f"s{n:02d}": site(n / 100, 0.5) for n in range(58)}
    sites |= {"x": site(0.9, None), "y": site(0.4, None)}
    table = final_table({"sites": sites})
    assert "the 50 worst of 60 sites" in table
    shown = {line.split()[1] for line in table.splitlines() if " grade " in line}
    assert shown == {f"s{n:02d}" for n in range(50)}


def test_sites_of_several_kinds_are_in_words() -> None:
    age = {
        **{"task": "age", "kind": "number", "unit": "years", "examples": 10.0, "loss": 0.5},
        **{"mae": 6.25, "rmse": 8.0, "r2": 0.25, "baseline_mae": 9.5, "alone_mae": 7.0},
    }
    table = final_table({"sites": {"a": site(0.9, 0.8), "b": {**age, "interval": [5.5, 7.0]}}})
    assert "MAE 6.25 years" in table
    assert "accuracy 90.00 %" in table


@pytest.mark.parametrize(
    ("owed", "said"),
    [((0.1, 0.5), "still owe 30% of what changed"), ((0.1, 0.1), ""), ((None, None), ""), ((), "")],
)
def test_what_coding_owes_at_the_end_is_said_where_it_is_much(owed, said) -> None:
    sites = {str(n): {} if value is None else {"owed": value} for n, value in enumerate(owed)}
    line = owed_line([{"sites": {"a": {"owed": 9.0}}}, {"sites": sites}])
    assert said in line
    assert bool(line) == bool(said)
    assert owed_line([]) == ""


def test_a_round_says_on_its_line_that_it_was_not_evaluated() -> None:
    record = RoundRecord(2, evaluated=False)
    record.took_part([(member("north"), replace(round_report("north"), metrics={}))])
    line = round_line(record, 5)
    assert line == "round 2/5: 1 of 1 sites, 0.0 s, 0.0 MB down, 0.0 MB up, not evaluated"
    measured = RoundRecord(1)
    measured.took_part([(member("north"), round_report("north"))])
    assert "as received: accuracy" in round_line(measured, 5)
