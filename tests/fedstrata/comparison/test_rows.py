"""Means and deviations over seeds, gains paired by seed and site, rounds to a target."""

from __future__ import annotations

import math

import msgspec
import pytest

from fedstrata.comparison.rows import compared, over_seeds
from fedstrata.runs.results import Evaluation
from fedstrata.support.errors import UserError
from tests.helpers.comparisons import a_run

ALONE = {"north": 0.5, "south": 0.5}


def test_a_figure_has_the_mean_and_the_sample_deviation_of_its_seeds() -> None:
    figure = over_seeds([0.5, 0.75, 1.0])
    assert (figure.mean, figure.deviation) == (0.75, 0.25)
    assert over_seeds([0.5]).deviation is None
    assert over_seeds([None, 0.5]).mean == 0.5
    assert over_seeds([None]).mean is None


def test_rows_are_what_differs_but_for_the_seed() -> None:
    runs = [
        a_run(seed, {"north": base + seed / 8, "south": base}, method=method, alone=ALONE)
        for method, base in (("fedavg", 0.5), ("ditto", 0.625))
        for seed in (2, 1)
    ]
    part = compared(runs)
    assert [(row.name, row.seeds) for row in part.rows] == [
        ("method=fedavg", [1, 2]),
        ("method=ditto", [1, 2]),
    ]
    (scope,) = part.scopes
    fedavg, ditto = scope.last
    assert fedavg.value.values == [0.5625, 0.625]
    assert fedavg.value.deviation == pytest.approx(0.0625 / math.sqrt(2))
    assert fedavg.worst.values == [0.5, 0.5]
    assert fedavg.worst_sites == ["south", "south"]
    assert fedavg.gain is not None
    assert fedavg.gain.values == [0.0625, 0.125]
    assert fedavg.over_first is None
    assert ditto.over_first is not None
    assert ditto.over_first.values == [0.125, 0.125]


def test_sites_better_alone_are_those_by_their_mean_over_the_seeds() -> None:
    runs = [
        a_run(1, {"north": 0.25, "south": 0.25}, alone=ALONE),  # by 0.25 worse
        a_run(2, {"north": 0.625, "south": 1.0}, alone=ALONE),  # by 0.125 and 0.5 better
    ]
    row = compared(runs).scopes[0].last[0]
    assert (row.better_alone, row.paired_sites) == (1, 2)


def test_an_error_that_is_less_than_alone_is_a_gain() -> None:
    kinds = {"east": "number"}
    run = a_run(1, {"east": 3.0}, alone={"east": 5.0}, kinds=kinds)
    row = compared([run]).scopes[0].last[0]
    assert row.gain is not None
    assert (row.gain.mean, row.better_alone) == (2.0, 0)


def test_without_alone_there_is_no_gain() -> None:
    row = compared([a_run(1, ALONE)]).scopes[0].last[0]
    assert (row.gain, row.better_alone, row.paired_sites) == (None, None, 0)


def test_one_seed_is_called_one_seed() -> None:
    runs = [a_run(1, ALONE), a_run(1, ALONE, method="ditto")]
    assert any(note.startswith("one seed:") for note in compared(runs).notes)
    assert not any("seed" in note for note in compared([*runs, *_seed_two()]).notes)


def _seed_two() -> list[object]:
    return [a_run(2, ALONE), a_run(2, ALONE, method="ditto")]


def test_unlike_seeds_are_said_and_pairs_are_of_shared_ones() -> None:
    runs = [
        a_run(1, ALONE),
        a_run(2, ALONE),
        a_run(2, {"north": 1.0, "south": 1.0}, method="ditto"),
    ]
    part = compared(runs)
    assert "the rows have unlike seeds: method=fedavg: 1, 2; method=ditto: 2" in part.notes
    assert part.scopes[0].last[1].over_first == over_seeds([0.5])


def test_a_run_that_measured_no_site_leaves_its_place_and_is_named() -> None:
    runs = [a_run(seed, {"a": seed / 10}, alone={"a": 0.1}) for seed in (1, 3)]
    lacking = a_run(2, {"a": 0.2})
    lacking = msgspec.structs.replace(lacking, final=Evaluation())
    other = [a_run(seed, {"a": 0.5}, method="b") for seed in (1, 2, 3)]
    part = compared([*runs, lacking, *other])
    first, second = part.scopes[0].last
    assert part.rows[0].seeds == [1, 2, 3]
    assert first.value.values == [0.1, None, 0.3]
    assert first.worst_sites == ["a", None, "a"]
    assert first.gain is not None
    assert first.gain.values == pytest.approx([0.0, None, 0.2])
    assert second.over_first is not None
    assert second.over_first.values == pytest.approx([0.4, None, 0.2])
    assert "grade, after the last round: no figure of fedavg-2" in part.notes


def test_a_site_that_one_run_did_not_measure_counts_in_no_row() -> None:
    lost = a_run(1, {"north": 0.75}, method="ditto", kinds={"south": "classes"})
    part = compared([a_run(1, ALONE), lost])
    (scope,) = part.scopes
    assert scope.sites == ["north"]
    assert [row.value.mean for row in scope.last] == [0.5, 0.75]
    said = "grade, after the last round: not counted, since not every run measured it: south"
    assert said in part.notes


def test_the_chosen_state_and_the_best_on_test_stand_apart() -> None:
    rounds = [
        {"north": 0.1, "south": 0.1},
        {"north": 1.0, "south": 1.0},
        {"north": 0.5, "south": 0.5},
    ]
    run = a_run(
        1, {"north": 0.6, "south": 0.6}, rounds=rounds, best=(2, {"north": 0.5, "south": 0.5})
    )
    (scope,) = compared([run]).scopes
    last, best, test = scope.last[0], scope.best[0], scope.best_on_test[0]
    assert [(each.value.mean, each.state.mean) for each in (last, best, test)] == [
        (0.6, 3),
        (0.5, 2),
        (1.0, 1),
    ]


def test_rounds_to_a_target_are_of_the_seeds_that_reached_it() -> None:
    slow = [{"north": 0.1, "south": 0.1}, {"north": 0.2, "south": 0.2}]
    fast = [{"north": 0.1, "south": 0.1}, {"north": 0.9, "south": 0.7}]
    runs = [
        a_run(1, {"north": 0.8, "south": 0.8}, rounds=slow),
        a_run(2, {"north": 0.8, "south": 0.8}, rounds=fast),
        a_run(3, {"north": 0.7, "south": 0.8}, rounds=slow),
    ]
    (scope,) = compared(runs, {"": 0.8}).scopes
    (row,) = scope.last
    assert row.reached is not None
    assert row.reached.rounds.values == [2, 1, None]
    assert (row.reached.rounds.mean, row.reached.seeds) == (1.5, 2)
    (named,) = compared(runs, {"grade": 0.99}).scopes
    assert named.last[0].reached is not None
    assert named.last[0].reached.seeds == 0


def test_costs_are_summed_over_the_rounds() -> None:
    (row,) = compared([a_run(1, ALONE, rounds=[ALONE, ALONE])]).rows
    assert [each.mean for each in (row.rounds, row.mb_up, row.mb_down, row.seconds)] == [2, 3, 6, 4]


def test_options_that_change_no_figure_make_no_row() -> None:
    runs = [
        a_run(1, ALONE, config={"tracker": {"name": "none"}}),
        a_run(2, ALONE, config={"tracker": {"name": "mlflow"}, "compare": {"target": 0.5}}),
    ]
    assert [row.name for row in compared(runs).rows] == ["method=fedavg"]


def test_a_run_that_is_there_twice_is_refused() -> None:
    run = a_run(1, ALONE)
    again = msgspec.structs.replace(run, run="again")
    with pytest.raises(UserError, match="fedavg-1 and again are the same run twice"):
        compared([run, again])


def test_what_a_reader_has_to_know_is_noted() -> None:
    mixed = {"north": 0.5, "east": 3.0}
    runs = [
        a_run(1, mixed, kinds={"east": "number"}),
        a_run(
            2, mixed, kinds={"east": "number"}, versions={"torch": "2.12"}, digests={"north": ""}
        ),
    ]
    notes = "\n".join(compared(runs, {"": 0.5}).notes)
    assert "no mean is over all of them" in notes
    assert "--target TASK=VALUE" in notes
    assert "several versions of torch: 2.11, 2.12" in notes
    assert "1 of 2 runs have no digest of their data" in notes


def test_runs_that_did_not_measure_every_state_are_named() -> None:
    often, seldom = a_run(1, ALONE), a_run(1, ALONE, method="ditto")
    assert not [note for note in compared([often, seldom]).notes if "evaluate_every" in note]
    seldom.config["strategy"] = {"evaluate_every": 5}
    (note,) = [n for n in compared([often, seldom]).notes if "not every state was measured" in n]
    assert note.endswith("method=fedavg: 1; method=ditto, strategy.evaluate_every=5: 5")
