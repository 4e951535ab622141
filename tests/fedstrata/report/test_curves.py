"""Curves are of the state after as many rounds as they say."""

from __future__ import annotations

from fedstrata.report import curves
from fedstrata.report.curves import Point, points_of
from tests.helpers.run_results import HOSTILE, run_results, typed


def test_a_round_measures_what_the_round_before_made() -> None:
    points = points_of(typed(run_results(2)), "grade")
    assert points == [
        Point(0, 0.40625, 0.28125, 0.53125),
        Point(1, 0.4375, 0.3125, 0.5625),
        Point(2, 0.609375, 0.40625, 0.8125),
    ]


def test_one_run_has_a_band_and_the_lines_of_what_it_is_compared_with() -> None:
    drawn = curves.draw([("one", typed(run_results()))], "grade")
    assert drawn.count("<polygon") == 1
    assert drawn.count("<polyline") == 1
    for css in ("level pooled", "level alone", "level baseline"):
        assert css in drawn


def test_several_runs_differ_by_color_dash_and_mark() -> None:
    runs = [(f"run {n} {HOSTILE}", typed(run_results(n + 1))) for n in range(4)]
    drawn = curves.draw(runs, "grade")
    assert "<polygon" not in drawn
    assert all(f"curve c{n} dash{n}" in drawn for n in range(4))
    assert "<script" not in drawn
    assert len({(mark, css) for mark, css, _ in curves.legend_entries(runs)}) == 4


def test_a_long_run_has_one_mark_at_its_end() -> None:
    assert curves.draw([("long", typed(run_results(80)))], "grade").count("<circle") == 1


def test_a_task_of_one_run_alone_is_drawn_too() -> None:
    without = typed(run_results(final=None))
    assert set(curves.tasks_with_curves([without])) == {"grade"}
    both = [("a", without), ("b", typed(run_results()))]
    assert set(curves.tasks_with_curves([r for _, r in both])) == {"age", "chest", "grade"}
    assert "MAE in years" in curves.draw(both, "age")


def test_a_kind_that_changed_between_runs_does_not_mix() -> None:
    other = run_results()
    other["final"]["tasks"]["grade"] = other["final"]["tasks"]["age"]
    for each in other["rounds"]:
        each["tasks"] = {}
    drawn = curves.draw([("a", typed(run_results())), ("b", typed(other))], "grade")
    assert (drawn.count("a: "), drawn.count("b: ")) == (4, 0)


def test_rounds_that_were_not_evaluated_have_no_point_and_the_legend_says_so() -> None:
    plain = run_results(4)
    plain["config"]["strategy"]["evaluate_every"] = 3
    for number in (1, 2):
        plain["rounds"][number] |= {"evaluated": False, "tasks": {}}
        for site in plain["rounds"][number]["sites"].values():
            del site["accuracy"], site["loss"], site["examples"]
    seldom = typed(plain)
    assert [point.rounds for point in points_of(seldom, "grade")] == [0, 3, 4]
    (_, _, words), *_ = curves.legend_entries([("seldom", seldom)])
    assert "measured every 3 rounds, and the line joins" in words
    each = typed(run_results(4))
    (_, _, one), (_, _, other) = curves.legend_entries([("each", each), ("seldom", seldom)])
    assert one == "each"
    assert other.startswith("seldom (measured every 3 rounds")
