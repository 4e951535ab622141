"""Who took part, also of many sites and rounds."""

from __future__ import annotations

from typing import Any

from fedstrata.report import participation_chart
from fedstrata.report.participation_chart import participation_of
from tests.helpers.run_results import HOSTILE, run_results, typed


def of(participation: dict[str, Any]) -> participation_chart.Participation:
    return participation_of(typed(run_results(participation=participation)))


def test_each_state_has_its_own_shape() -> None:
    found = of({"a": list(participation_chart.STATES)})
    drawn = participation_chart.draw(found, {})
    assert [
        f'"cell {state.replace(" ", "-")}"' in drawn for state in participation_chart.STATES
    ] == [True] * 5
    assert drawn.count("strike") == 2
    assert participation_chart.legend_entries(found) == list(participation_chart.STATES)


def test_of_many_sites_those_that_missed_most_are_drawn() -> None:
    found = of({f"s{n:03}": ["late" if n >= 90 else "took part"] for n in range(100)})
    assert len(found.shown) == participation_chart.MOST_SITES
    assert {f"s{n:03}" for n in range(90, 100)} <= set(found.shown)
    assert found.others == 60


def test_of_many_rounds_a_column_shows_the_worst() -> None:
    states = ["took part"] * 180
    states[100] = "refused"
    found = of({"a": states})
    assert found.per_column == 3
    assert len(found.shown["a"]) == 60
    assert found.shown["a"].count("refused") == 1


def test_what_is_none_of_the_states_is_drawn_as_not_asked() -> None:
    assert of({"a": [HOSTILE]}).shown == {"a": ["not asked"]}


def test_nobody_is_no_error() -> None:
    assert participation_chart.draw(of({}), {})
