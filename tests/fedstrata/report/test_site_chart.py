"""Sites are drawn beside what they are compared with."""

from __future__ import annotations

from fedstrata.report import site_chart
from fedstrata.runs.results import Measured
from tests.helpers.run_results import run_results, typed

RESULTS = typed(run_results())
assert RESULTS.final is not None
GRADE = {name: s for name, s in RESULTS.final.sites.items() if s.task == "grade"}


def test_each_site_has_its_marks_and_its_interval() -> None:
    drawn = site_chart.draw("grade", GRADE)
    for css in ("federated", "alone", "pooled", "baseline"):
        assert drawn.count(f'"mark {css}"') == 2
    assert drawn.count('"interval"') == 2
    assert "north, federated: 81.25 %" in drawn


def test_the_legend_has_only_what_there_is() -> None:
    words = [about for _, _, about in site_chart.legend_entries(GRADE)]
    assert words[1:] == ["in one place", "alone", "federated", "95 % interval"]
    bare = {"a": Measured(accuracy=0.5)}
    assert [about for _, _, about in site_chart.legend_entries(bare)] == ["federated"]


def test_of_many_sites_those_that_gain_least_are_drawn() -> None:
    many = {f"site-{n:03}": Measured(accuracy=n / 100, alone_accuracy=0.5) for n in range(100)}
    many["none"] = Measured()
    shown = site_chart.shown_sites(many)
    assert shown == [f"site-{n:03}" for n in range(site_chart.MOST)]


def test_errors_that_are_high_gain_least() -> None:
    many = {f"site-{n:03}": Measured(kind="number", mae=float(n)) for n in range(50)}
    assert "site-049" in site_chart.shown_sites(many)
    assert "site-000" not in site_chart.shown_sites(many)
