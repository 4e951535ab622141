"""Cases are measured in turn, and medians are over what was found."""

from __future__ import annotations

import math
import threading

import pytest

from benchmarks.measure.turns import in_turn, median_of, medians


def test_every_case_is_measured_before_the_first_is_measured_again() -> None:
    order: list[tuple[str, int]] = []

    def measure(case: str, number: int) -> int:
        order.append((case, number))
        return len(order)

    assert in_turn(["a", "b"], 2, measure) == {"a": [1, 3], "b": [2, 4]}
    assert order == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]


def test_cases_side_by_side_run_at_the_same_time() -> None:
    both = threading.Barrier(2, timeout=60)  # breaks where one case waits for the other

    def measure(case: str, _: int) -> str:
        both.wait()
        return case

    assert in_turn(["a", "b"], 1, measure, side_by_side=True) == {"a": ["a"], "b": ["b"]}


def test_a_case_that_fails_ends_the_measurement() -> None:
    def measure(case: str, _: int) -> str:
        raise SystemExit(case)

    for side_by_side in (True, False):
        with pytest.raises(SystemExit):
            in_turn(["a"], 1, measure, side_by_side=side_by_side)


def test_a_median_is_no_mean_and_of_nothing_it_is_nan() -> None:
    assert median_of([1.0, 2.0, 90.0], float) == 2.0
    assert medians({"a": [3.0, 1.0, 2.0]}, lambda value: 10 * value) == {"a": 20.0}
    assert math.isnan(median_of([], float))
