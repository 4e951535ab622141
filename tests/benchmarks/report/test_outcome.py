"""The numbers of a table are those of results.json."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.report import outcome

SITES = {
    "a": {"task": "x", "accuracy": 0.5, "alone_accuracy": 0.6, "validation": {"accuracy": 0.1}},
    "b": {"task": "x", "accuracy": 0.7, "alone_accuracy": 0.6, "validation": {"accuracy": 0.2}},
    "c": {"task": "y", "accuracy": 0.9, "alone_accuracy": None, "validation": {"accuracy": 0.6}},
}
RESULTS: dict[str, Any] = {
    "run": "it",
    "final": {"sites": SITES, "mean": {"accuracy": 0.8, "alone_accuracy": None}},
    "rounds": [{"sites": {"a": {"accuracy": value}}} for value in (0.1, 0.2, 0.3)],
}


def test_sites_that_are_better_alone_are_counted_where_they_were_trained_alone() -> None:
    assert outcome.better_alone([RESULTS, RESULTS]) == (2, 4)


def test_means_are_over_the_sites_and_over_those_of_a_task() -> None:
    assert outcome.mean_of(SITES) == pytest.approx(0.7)
    assert outcome.by_task(SITES) == {"x": pytest.approx(0.6), "y": 0.9}
    assert outcome.mean_validation(SITES) == pytest.approx(0.3)
    assert outcome.figure([1, 0.5]).values == (1.0, 0.5)


def test_a_curve_begins_with_what_the_second_round_measured() -> None:
    assert outcome.curve(RESULTS) == [0.2, 0.3, 0.8]


def test_a_run_without_training_alone_is_named() -> None:
    with pytest.raises(ValueError, match="run it: no site was trained alone"):
        outcome.mean_alone({**RESULTS, "final": {"sites": {"c": SITES["c"]}}})


def errors(site: str, alone: float | None = 9.0) -> dict[str, Any]:
    """Return a site that predicts years."""
    measured = {"mae": {"a": 6.0, "b": 8.0}[site], "accuracy": 0.0}
    validation = {"mae": 5.0, "accuracy": 0.0}
    return {"task": "years", "kind": "number", **measured, "alone_mae": alone,
            "baseline_mae": 12.0, "validation": validation}  # fmt: skip


YEARS: dict[str, Any] = {
    "run": "it",
    "final": {"sites": {"a": errors("a"), "b": errors("b", 7.0)}, "mean": {"accuracy": None}},
    "rounds": [{"sites": {"a": errors("a")}}, {"sites": {"b": errors("b")}}],
}


def test_each_kind_has_its_leading_measure() -> None:
    assert outcome.mean_leading(YEARS) == 7.0
    assert outcome.curve(YEARS) == [8.0, 7.0]
    assert outcome.mean_alone(YEARS) == 8.0
    assert outcome.mean_guess(YEARS) == 12.0
    assert outcome.mean_validation(YEARS["final"]["sites"]) == 5.0
    assert outcome.by_task({**SITES, **YEARS["final"]["sites"], "d": SITES["c"]})["years"] == 7.0
    assert outcome.better_alone([YEARS]) == (1, 2)  # less of an error is better
    labels = {"task": "findings", "kind": "labels", "auroc": 0.8, "accuracy": 0.1}
    assert outcome.mean_of({"a": labels}) == 0.8
    assert outcome.figure([6.5], "mae").text() == "6.50"
    assert outcome.figure([0.8], "auroc").text() == "80.00"


def test_measures_of_several_kinds_have_no_mean() -> None:
    with pytest.raises(ValueError, match="kinds classes and number have no measure in common"):
        outcome.mean_of({"a": errors("a"), "c": SITES["c"]})
