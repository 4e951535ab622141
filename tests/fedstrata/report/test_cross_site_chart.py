"""The cross-site table as a heat map."""

from __future__ import annotations

import msgspec
import pytest

from fedstrata.report import cross_site_chart
from fedstrata.runs.results import CrossSiteTask, Measured
from tests.helpers.run_results import HOSTILE


def task(values: dict[str, dict[str, float]], kind: str = "classes") -> CrossSiteTask:
    key = {"classes": "accuracy", "labels": "auroc", "number": "mae"}[kind]
    models = {model: {site: {key: v} for site, v in on.items()} for model, on in values.items()}
    unit = "years" if kind == "number" else ""
    return msgspec.convert({"kind": kind, "unit": unit, "models": models}, CrossSiteTask)


PAIR = {"north": {"north": 0.5, HOSTILE: 0.75}, HOSTILE: {HOSTILE: 1.0}}


def test_a_cell_has_its_value_and_its_own_site_a_frame() -> None:
    drawn = cross_site_chart.draw("grade", task(PAIR))
    assert ">50.0<title>north on the data of north: 50.00 %</title>" in drawn
    assert drawn.count("heat0 own") == drawn.count("heat10 own") == 1
    assert 'class="heat heat5"' in drawn
    assert "on the data of north: -</title>" in drawn  # that pair was not measured
    assert "<script" not in drawn


def test_of_errors_the_least_is_the_best() -> None:
    made = task({"a": {"a": 2.0, "b": 4.0}, "b": {"a": 4.0, "b": 6.0}}, "number")
    drawn = cross_site_chart.draw("age", made)
    assert '<rect class="heat heat10 own"' in drawn
    assert "a on the data of a: 2 years" in drawn
    assert (
        cross_site_chart.legend_text(made)
        == "MAE from 6 years (pale) to 2 years (full color, the best)"
    )


def test_what_the_last_state_is_worth_is_the_first_row() -> None:
    last = {"a": Measured(accuracy=0.0), "b": Measured(accuracy=0.5)}
    made = task({"a": {"a": 0.5, "b": 0.5}, "b": {"a": 0.5, "b": 0.5}})
    drawn = cross_site_chart.draw("grade", made, last)
    assert "last state on the data of a: 0.00 %" in drawn
    assert cross_site_chart.value_range(made, last) == (0.0, 0.5)
    assert drawn.count("heat10") == 5


def test_equal_values_have_one_shade() -> None:
    drawn = cross_site_chart.draw("grade", task({"a": {"a": 0.5}, "b": {"a": 0.5}}))
    assert drawn.count("heat5") == 2


@pytest.mark.parametrize("count", [9, 70])
def test_many_sites_are_numbered_and_at_most_so_many_drawn(count: int) -> None:
    names = [f"hospital-{n:02d}" for n in range(count)]
    made = task({a: dict.fromkeys(names, 0.5) for a in names})
    shown = cross_site_chart.shown_sites(made)
    assert shown == names[: cross_site_chart.MOST]
    drawn = cross_site_chart.draw("grade", made)
    assert drawn.count("<rect") == len(shown) ** 2
    assert "2  hospital-01" in drawn
    assert (">50.0<" in drawn) is (count < 20)  # no room for numbers: they are in the table


def test_sites_that_are_left_out_are_not_drawn() -> None:
    made = task({"a": {"a": 0.5}, "b": {}})
    assert cross_site_chart.shown_sites(made) == ["a"]
