"""Robust aggregators need all updates, and give each site the same weight."""

import pytest
import torch

from tests.helpers.aggregation import assert_same_bits, build, draw_round, run_round

ROBUST = ["median", "trimmed_mean", "krum"]


@pytest.mark.parametrize("name", ROBUST)
def test_the_number_of_examples_has_no_weight(name: str) -> None:
    current, updates, examples = draw_round(5)
    equal = run_round(build(name), current, updates, dict.fromkeys(examples, 1))
    assert_same_bits(run_round(build(name), current, updates, examples), equal)


@pytest.mark.parametrize("name", ROBUST)
def test_the_order_of_arrival_does_not_matter(name: str) -> None:
    current, updates, examples = draw_round(5)
    turned = dict(reversed(list(updates.items())))
    one = run_round(build(name), current, updates, examples)
    assert_same_bits(run_round(build(name), current, turned, examples), one)


@pytest.mark.parametrize("name", ROBUST)
def test_a_round_leaves_nothing_for_the_next(name: str) -> None:
    aggregator = build(name)
    for value in (1.0, 5.0):
        state = {"w": torch.zeros(3)}
        aggregator.begin(state, dict.fromkeys("abc", 1))
        for site in "abc":
            aggregator.add(site, {"w": torch.full((3,), value)}, 1)
        made = aggregator.finish()
        assert made is not None
        assert made["w"].tolist() == [value] * 3
