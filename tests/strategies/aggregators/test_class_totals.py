"""Totals over the sites of a round, with what a site needs to take its own part out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from strategies.aggregators.base import RoundFacts
from strategies.aggregators.class_means import COUNTS, SUMS
from strategies.aggregators.class_totals import MADE, MOST, ClassTotals

TOTALS = {SUMS: torch.tensor([[6.0], [0.0]]), COUNTS: torch.tensor([4.0, 0.0])}
START = {
    SUMS: torch.full((2, 1), 7.0),
    COUNTS: torch.full((2,), 7.0),
    MADE: torch.zeros(1),
    MOST: torch.zeros(1),
}


def sent(sums: list[float], counts: list[float], examples: int) -> dict[str, Tensor]:
    return {
        SUMS: torch.tensor(sums)[:, None] / examples,
        COUNTS: torch.tensor(counts) / examples,
        MADE: torch.full((1,), 99.0),  # what a site sends here does not count
        MOST: torch.full((1,), 1e6),
    }


def after(weights: dict[str, int]) -> dict[str, Tensor]:
    totals = ClassTotals()
    totals.inform(RoundFacts(3, 0, 40, {}))
    totals.begin(START, {"a": 4, "b": 16, "c": 20})
    for site, sums, counts, examples in (("a", [6, 0], [4, 0], 4), ("b", [8, 30], [4, 12], 16)):
        given = sent([float(each) for each in sums], [float(each) for each in counts], examples)
        totals.add(site, given, weights[site])
    found = totals.finish()
    assert found is not None
    return found


def test_they_are_of_this_rounds_sites_alone() -> None:
    found = after({"a": 4, "b": 16})
    assert found[SUMS][:, 0].tolist() == pytest.approx([14, 30])
    assert found[COUNTS].tolist() == pytest.approx([8, 12])
    assert (float(found[MADE]), float(found[MOST])) == (3, 16)


def test_a_site_that_counts_as_fewer_examples_adds_as_many() -> None:
    found = after({"a": 4, "b": 4})
    assert found[COUNTS].tolist() == pytest.approx([4 + 1, 3])
    assert float(found[MOST]) == 4


def test_the_norm_that_is_bounded_is_that_of_the_means() -> None:
    judged = ClassTotals().judged(TOTALS)
    assert {name: tensor.tolist() for name, tensor in judged.items()} == {SUMS: [[1.5], [0.0]]}
