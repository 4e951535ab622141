"""What a run reached at its sites, state by state."""

from __future__ import annotations

from fedstrata.comparison.figures import (
    Scope,
    is_reached,
    measured,
    scopes_of,
    states,
    unweighted,
    weighted,
    worst,
)
from fedstrata.protocol.measures import MEASURES
from tests.helpers.comparisons import a_run

GRADE = Scope(("grade",), "classes")
LAST = {"north": 0.5, "south": 0.75}


def test_means_are_by_site_and_by_test_examples() -> None:
    at = measured(a_run(1, LAST, examples={"south": 30.0}).final, GRADE, 3)
    assert at is not None
    assert (unweighted(at, list(LAST)), weighted(at, list(LAST))) == (0.625, 0.6875)
    assert worst(at, list(LAST), MEASURES["classes"]) == ("north", 0.5)


def test_the_worst_error_is_the_largest() -> None:
    kinds = {"north": "number", "south": "number"}
    at = measured(a_run(1, LAST, kinds=kinds).final, Scope(("number",), "number"), 3)
    assert at is not None
    assert worst(at, list(LAST), MEASURES["number"]) == ("south", 0.75)
    assert is_reached(0.5, 0.6, MEASURES["number"])
    assert not is_reached(0.5, 0.6, MEASURES["classes"])


def test_a_round_measures_the_state_before_it() -> None:
    run = a_run(1, LAST, rounds=[{"north": 0.1, "south": 0.1}, {"north": 0.2, "south": 0.2}])
    found = [(state, at.values) for state, at in states(run, GRADE, list(LAST))]
    assert found == [(1, {"north": 0.2, "south": 0.2}), (2, LAST)]


def test_a_site_that_was_not_asked_counts_with_its_latest_figure() -> None:
    run = a_run(1, LAST, rounds=[{"north": 0.1}, {"north": 0.2}, {"south": 0.3}])
    found = [(state, at.values) for state, at in states(run, GRADE, list(LAST))]
    assert found == [(2, {"north": 0.2, "south": 0.3}), (3, LAST)]


def test_a_state_that_no_site_measured_is_left_out() -> None:
    run = a_run(
        1, LAST, rounds=[{"north": 0.1, "south": 0.1}, {}, {"north": 0.2, "south": 0.3}, {}]
    )
    found = [(state, at.values) for state, at in states(run, GRADE, list(LAST))]
    assert found == [(2, {"north": 0.2, "south": 0.3}), (4, LAST)]


def test_tasks_of_classes_have_a_mean_over_all_and_other_kinds_have_none() -> None:
    plain = a_run(1, {**LAST, "east": 2.0, "west": 0.5}, kinds={"east": "number", "west": "labels"})
    assert [scope.name for scope in scopes_of(plain)] == ["grade", "labels", "number"]
    pair = Scope(("gender", "pose"), "classes")
    assert pair.name == "all 2 tasks of classes (gender, pose)"
