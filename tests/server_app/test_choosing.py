"""Which state is the best: by name, over the mean or the worst site, whatever was stopped between."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedstrata.support.errors import UserError
from server_app.choosing import (
    best_of,
    best_rounds,
    candidates_line,
    choice_line,
    lower_is_better,
    metric_of,
    stop_reason,
)
from server_app.compose import compose
from server_app.history_file import PlainRecord
from strategies.config import ChooseConfig

MEAN = ChooseConfig("auto", "mean", None)


def record(kind: str = "classes", **values: float | None) -> dict[str, Any]:
    """Return the record of a round in which sites measured these accuracies."""
    measure = {"classes": "accuracy", "number": "mae"}[kind]
    sites = {
        site: {"kind": kind, "validation": {measure: value, "loss": value}}
        for site, value in values.items()
    }
    return {"sites": sites}


def test_round_r_judges_the_state_after_round_r_minus_1() -> None:
    history = [record(a=0.9, b=0.9), record(a=0.5, b=0.5), record(a=0.8, b=0.6)]
    found = best_of(history, MEAN)
    assert found is not None
    assert (found.round, found.sites) == (2, 2)
    assert found.value == pytest.approx(0.7)


def test_the_start_is_no_candidate_and_before_round_2_there_is_none() -> None:
    assert best_of([], MEAN) is None
    assert best_of([record(a=1.0)], MEAN) is None


def test_the_last_state_is_judged_by_the_last_evaluation() -> None:
    history = [record(a=0.5), record(a=0.6)]
    last = record(a=0.7)["sites"]
    assert best_of(history, MEAN, last).round == 2  # type: ignore[union-attr]
    assert best_of(history, MEAN, {}).round == 1  # type: ignore[union-attr]


def test_the_earliest_of_equal_states_is_the_best() -> None:
    found = best_of([record(a=0.5)] * 4, MEAN)
    assert found is not None
    assert found.round == 1


def test_mean_and_worst_site_choose_differently() -> None:
    history = [record(a=0.5, b=0.5), record(a=1.0, b=0.4), record(a=0.6, b=0.6)]
    assert best_of(history, MEAN).round == 1  # type: ignore[union-attr]
    assert best_of(history, ChooseConfig("accuracy", "worst", None)).round == 2  # type: ignore[union-attr]


def test_a_site_that_missed_a_round_counts_as_it_was() -> None:
    history = [record(a=0.5, b=0.5), record(a=0.9, b=0.4), record(a=0.8), record(a=0.9, b=0.5)]
    found = best_of(history, MEAN)
    assert found is not None
    # Without it round 2 would be the best, only since the weaker site was away.
    assert (found.round, found.value) == (3, pytest.approx(0.7))


def test_less_loss_and_less_error_are_better() -> None:
    history = [record("number", a=1.0), record("number", a=3.0), record("number", a=2.0)]
    found = best_of(history, MEAN)
    assert found is not None
    assert (found.metric, found.round) == ("mae", 2)
    worst = ChooseConfig("mae", "worst", None)
    assert best_of([record("number", a=1.0, b=2.0)] * 2, worst).value == 2.0  # type: ignore[union-attr]
    assert [lower_is_better(n) for n in ("loss", "mae", "rmse", "r2", "accuracy", "auroc")] == [
        True,
        True,
        True,
        False,
        False,
        False,
    ]


def test_tasks_of_different_kinds_are_compared_by_their_loss() -> None:
    assert metric_of(["classes", "number"], MEAN) == "loss"
    assert metric_of(["labels", "labels"], MEAN) == "auroc"
    assert metric_of(["labels"], ChooseConfig("loss", "mean", None)) == "loss"


def test_measures_that_are_missing_count_for_nothing() -> None:
    history = [record(a=0.5, b=None), record(a=None, b=None), record(a=0.4, b=None)]
    found = best_of(history, MEAN)
    assert found is not None
    assert (found.round, found.sites) == (2, 1)


def test_rounds_stop_after_as_many_states_without_a_better_one() -> None:
    patient = ChooseConfig("auto", "mean", 2)
    history = [record(a=value) for value in (0.1, 0.5, 0.4, 0.5, 0.6)]
    assert stop_reason(history[:3], patient) == ""
    assert "after round 1" in stop_reason(history[:4], patient)
    assert stop_reason(history, patient) == ""  # it would have got better
    assert stop_reason(history[:4], MEAN) == ""


def test_what_would_be_the_best_after_going_back_is_kept_too() -> None:
    history = [record(a=value) for value in (0.1, 0.5, 0.4, 0.6, 0.7)]
    assert best_rounds(history, MEAN, {len(history)}) == {4}
    assert best_rounds(history, MEAN, {len(history) - back for back in range(3)}) == {1, 3, 4}
    assert best_rounds(history[:1], MEAN, {0, 1}) == set()


def test_what_will_be_called_the_best_is_said_before_the_rounds() -> None:
    line = choice_line(
        {"a": "classes", "b": "labels"}, ChooseConfig("balanced_accuracy", "worst", None)
    )
    assert "by balanced_accuracy on validation data, that of the worst site" in line
    assert line.endswith("not counted, for want of it: b")
    assert "by loss" in choice_line({"a": "classes", "b": "number"}, MEAN)
    with pytest.raises(UserError, match=r"choose.metric=mae: no task of this run has it.*accuracy"):
        choice_line({"a": "classes"}, ChooseConfig("mae", "mean", None))


@given(
    st.lists(st.lists(st.none() | st.floats(0, 1), min_size=3, max_size=3), max_size=8),
    st.sampled_from(["mean", "worst"]),
    st.sampled_from(["accuracy", "loss"]),
)
def test_the_best_is_the_best_of_before_or_one_that_was_not_judged(
    values: list[list[float | None]], over: str, metric: str
) -> None:
    choose = ChooseConfig(metric, over, None)
    history = [record(**dict(zip("abc", each, strict=True))) for each in values]
    rounds = [
        found and found.round
        for n in range(len(history) + 1)
        for found in [best_of(history[:n], choose)]
    ]
    for count, (before, after) in enumerate(itertools.pairwise(rounds)):
        assert after in (before, count)  # sites keep no other layers


def unmeasured() -> dict[str, Any]:
    """Return the record of a round that was not evaluated."""
    return {"evaluated": False, "sites": {"a": {"kind": "classes", "train_loss": 0.1}}}


@given(
    st.lists(
        st.dictionaries(st.sampled_from("abc"), st.sampled_from([None, 0.1, 0.2, 0.3])), max_size=8
    ),
    st.data(),
)
def test_what_is_remembered_of_earlier_rounds_changes_no_choice(
    measured: list[dict[str, float | None]], data: st.DataObject
) -> None:
    history: list[dict[str, Any]] = []
    for values in measured:
        history.append(PlainRecord(record(**values)))
        over, every = data.draw(st.sampled_from(["mean", "worst"])), data.draw(st.integers(1, 3))
        choose = ChooseConfig("auto", over, None)
        whole = best_of([dict(each) for each in history], choose, saved_every=every)
        assert best_of(history, choose, saved_every=every) == whole
        assert best_of(history, choose, saved_every=every) == whole
        if data.draw(st.booleans()):  # the run goes back
            history = history[: data.draw(st.integers(0, len(history)))]


def test_a_state_that_was_not_measured_is_no_candidate() -> None:
    history = [record(a=0.5), unmeasured(), unmeasured(), record(a=0.6), unmeasured()]
    found = best_of(history, MEAN)
    assert found is not None
    assert (found.round, found.value) == (3, 0.6)
    assert best_of(history[:3], MEAN) is None
    assert best_of(history, MEAN, record(a=0.7)["sites"]).round == 5  # type: ignore[union-attr]


def test_patience_counts_rounds_up_to_the_last_that_was_evaluated() -> None:
    between = [unmeasured(), unmeasured()]
    history = [record(a=0.5), *between, record(a=0.6), *between, record(a=0.5), *between]
    patient = ChooseConfig("auto", "mean", 3)
    assert stop_reason(history[:6], patient) == ""  # the state after round 6 is not measured yet
    assert "in the 3 rounds after round 3" in stop_reason(history[:7], patient)
    assert stop_reason(history[:9], ChooseConfig("auto", "mean", 4)) == ""


def test_only_a_state_with_a_checkpoint_can_be_the_best_or_the_last() -> None:
    history = [record(a=value) for value in (0.1, 0.9, 0.8, 0.5, 0.6, 0.7)]
    last = record(a=0.75)["sites"]
    for every, expected in ((1, (1, 1)), (2, (2, 2)), (3, (3, 6)), (5, (5, 6)), (7, (None, 6))):
        found = [best_of(history, MEAN, each, saved_every=every) for each in (None, last)]
        assert tuple(each and each.round for each in found) == expected
    assert best_rounds(history, MEAN, {4, 6}, saved_every=3) == {3}
    patient = ChooseConfig("auto", "mean", 3)
    assert "after round 2" in stop_reason(history, patient, saved_every=2)
    assert stop_reason(history[:5], patient, saved_every=2) == ""


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        ((), ""),
        (
            ("strategy.evaluate_every=2", "strategy.checkpoint_every=3"),
            "rounds 6, 12 and so on, and",
        ),
        (("strategy.checkpoint_every=50",), "of the states only the last can be the best"),
    ],
)
def test_which_states_can_be_the_best_is_said(chosen: tuple[str, ...], words: str) -> None:
    line = candidates_line(compose("faces", ("strategy.rounds=20", *chosen)).strategy)
    assert words in line
    assert bool(line) == bool(words)
