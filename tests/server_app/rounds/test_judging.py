"""An update is judged by its round: the same ones are refused in any order of arrival."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from server_app.rounds.judging import (
    Judged,
    RoundJudge,
    bounds_line,
    held_by_scope,
    suspects,
    update_norms,
)
from strategies.config import BoundsConfig

BOUNDS = BoundsConfig(norm_factor=10.0, share=0.5, memory_mb=1.0)
OFF = BoundsConfig(norm_factor=None, share=1.0, memory_mb=1.0)


def judge_all(
    norms: dict[str, float],
    order: tuple[str, ...],
    bounds: BoundsConfig = BOUNDS,
    examples: dict[str, int] | None = None,
) -> tuple[dict[str, int], dict[str, str], int]:
    """Return the weight of each accepted update, who is refused and why, and the most held."""
    judge = RoundJudge[str](bounds, held_by_scope({"common": len(norms)}, bounds, 4))
    weights: dict[str, int] = {}
    held = 0
    for arrived, site in enumerate(order, 1):
        count = (examples or {}).get(site, 20)
        for each in judge.add(Judged(site, site, count, ("common",)), {"common": norms[site]}):
            weights[each.site] = each.examples
        held = max(held, arrived - len(weights))
    accepted, refused = judge.close()
    weights |= {each.site: own["common"] for each, own in accepted}
    return weights, refused, held


def test_one_update_far_larger_than_the_others_is_refused_in_any_order() -> None:
    norms = {"a": 1.0, "b": 2.0, "c": 3.0, "bad": 40.0}
    for order in itertools.permutations(norms):
        weights, refused, held = judge_all(norms, order)
        assert weights.keys() == {"a", "b", "c"}
        assert list(refused) == ["bad"]
        assert "norm 40, 16 times the median 2.5 of 4 sites" in refused["bad"]
        assert held <= 2


def test_as_many_as_can_be_told_from_the_others_are_refused() -> None:
    norms = {"a": 1.0, "b": 1.0, "c": 1.0, "bad-1": 99.0, "bad-2": 98.0}
    for order in itertools.permutations(norms):
        _, refused, _ = judge_all(norms, order)
        assert refused.keys() == {"bad-1", "bad-2"}


@pytest.mark.parametrize(
    "norms",
    [
        {"a": 1.0, "b": 1e6},  # who of two is wrong?
        {"a": 0.0, "b": 0.0, "c": 1.0},  # the others did not train
        {"a": 1.0, "b": 2.0, "c": 20.0},  # exactly at the bound
    ],
)
def test_nobody_is_refused_where_nothing_can_be_said(norms: dict[str, float]) -> None:
    weights, refused, _ = judge_all(norms, tuple(norms))
    assert weights.keys() == norms.keys()
    assert not refused


def test_without_bounds_nothing_is_held() -> None:
    norms = {"a": 1.0, "b": 1.0, "bad": 1e9}
    weights, refused, held = judge_all(norms, tuple(norms), OFF)
    assert weights.keys() == norms.keys()
    assert not refused
    assert held == 0


def test_a_site_with_most_examples_counts_as_half_of_all() -> None:
    norms = dict.fromkeys(("a", "b", "liar"), 1.0)
    examples = {"a": 20, "b": 30, "liar": 2**24}
    for order in itertools.permutations(norms):
        weights, _, _ = judge_all(norms, order, examples=examples)
        assert weights == {"a": 20, "b": 30, "liar": 50}


def test_the_examples_of_a_refused_site_are_not_in_the_share() -> None:
    norms = {"a": 1.0, "b": 1.0, "c": 1.0, "large": 1.0, "bad": 99.0}
    examples = {"a": 10, "b": 10, "c": 10, "large": 100, "bad": 1000}
    weights, refused, _ = judge_all(norms, tuple(norms), examples=examples)
    assert refused.keys() == {"bad"}
    assert weights["large"] == 30


@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=9), st.randoms())
def test_the_verdict_does_not_depend_on_the_order(values: list[float], random: object) -> None:
    norms = {f"s{i}": value for i, value in enumerate(values)}
    shuffled = list(norms)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert judge_all(norms, tuple(norms))[:2] == judge_all(norms, tuple(shuffled))[:2]


def test_the_memory_limits_how_many_are_held() -> None:
    bounds = BoundsConfig(10.0, 0.5, memory_mb=1.0)
    assert held_by_scope({"common": 9}, bounds, 100_000) == {"common": 3}
    assert held_by_scope({"common": 9}, bounds, 1) == {"common": 4}
    assert held_by_scope({"common": 2}, bounds, 1) == {"common": 0}


def test_the_log_says_what_is_in_force_and_what_is_not() -> None:
    held = {"common": 2, "task/grade": 0}
    said = bounds_line(BOUNDS, held, cohorts=False)
    assert "refused above 10 times the median norm" in said
    assert "a site counts for at most 0.5 of the examples" in said
    assert "can be refused: 2 of common;" in said
    assert "not in force, with fewer than 3 sites or memory for none: task/grade" in said
    assert "an update of any norm is taken, no share is limited" in bounds_line(
        OFF, held, cohorts=False
    )
    assert "is not in force: a node sends the sum" in bounds_line(BOUNDS, held, cohorts=True)


def test_statistics_are_measured_apart_from_weights() -> None:
    current = {"fc.weight": torch.zeros(2), "bn.running_var": torch.ones(4)}
    update = {"fc.weight": torch.tensor([3.0, 4.0]), "bn.running_var": torch.full((4,), 3.0)}
    assert update_norms("common", update, current) == {"common": 5.0, "common, statistics": 4.0}


def test_the_suspect_is_who_stands_out_most_also_among_two() -> None:
    assert suspects({"common": {"a": 1.0, "b": 100.0}}).keys() == {"b"}
    assert suspects({"common": {"a": 1.0, "b": 9.0, "c": 50.0, "d": 1.0}}).keys() == {"c"}
    assert not suspects({"common": {"a": 1.0, "b": 2.0}})
    assert not suspects({"common": {"a": 1.0}})
    assert not suspects({})
