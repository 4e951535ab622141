"""What the log says at the end follows from the sites that can be compared."""

from __future__ import annotations

from typing import Any

import pytest

from server_app.report import final_tables, owed_line, verdict


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


def final(**sites: dict[str, Any]) -> dict[str, Any]:
    def mean(name: str) -> float | None:
        there = [each[name] for each in sites.values() if each[name] is not None]
        return sum(there) / len(there) if there else None

    names = ("accuracy", "majority_accuracy", "alone_accuracy")
    means = {name: mean(name) for name in names}
    task = {**site(0.8, means["alone_accuracy"]), "sites": len(sites)}
    return {"sites": sites, "mean": means, "tasks": {"grade": task}}


def test_the_federation_is_compared_with_the_sites_that_were_trained_alone() -> None:
    said = final(a=site(0.9, 0.85), b=site(0.9, 0.85, examples=30), c=site(0.6, None))
    text = verdict(said)
    assert "federation 80.00 %" in text
    assert "alone 85.00 %: the federation is +5.00 points" in text
    assert text.endswith("at the 2 of 3 sites that were trained alone")
    table = final_tables(said)
    assert table.count("+5.00") == 3  # the task, and the two sites
    assert "-5.00" not in table


def test_who_is_better_off_alone_is_named() -> None:
    text = verdict(final(a=site(0.9, 0.8), b=site(0.7, 0.9)))
    assert "the federation is -5.00 points; alone is better at b" in text


def test_nothing_is_compared_where_nobody_was_trained_alone() -> None:
    said = final(a=site(0.9, None))
    assert verdict(said) == "mean over sites: federation 90.00 %, majority class 50.00 %"
    assert "+" not in final_tables(said)


def test_tasks_of_other_kinds_are_compared_by_themselves() -> None:
    age = {
        **{"task": "age", "kind": "number", "unit": "years", "examples": 10.0, "loss": 0.5},
        **{"mae": 6.25, "rmse": 8.0, "r2": 0.25, "baseline_mae": 9.5, "alone_mae": 7.0},
    }
    said = final(a=site(0.9, 0.8))
    said["sites"]["b"] = {**age, "interval": [5.5, 7.0]}
    said["sites"]["c"] = {**age, "mae": 8.25}
    said["tasks"]["age"] = {**age, "sites": 2}
    grades, ages = verdict(said).splitlines()
    assert grades.startswith("mean over sites: federation 90.00 %")
    assert ages == (
        "age: mean over sites: federation MAE 7.25 years, mean 9.5 years, alone 7 years, "
        "gain -0.25 years; alone is better at c"
    )
    table = final_tables(said)
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
