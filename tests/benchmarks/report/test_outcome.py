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
    assert outcome.validation_accuracy(SITES) == pytest.approx(0.3)
    assert outcome.figure([1, 0.5]).values == (1.0, 0.5)


def test_a_curve_begins_with_what_the_second_round_measured() -> None:
    assert outcome.curve(RESULTS) == [0.2, 0.3, 0.8]


def test_a_run_without_training_alone_is_named() -> None:
    with pytest.raises(ValueError, match="run it: no site was trained alone"):
        outcome.alone_accuracy(RESULTS)
