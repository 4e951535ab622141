"""The mean of a class is that of all its examples, at whichever sites they are."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from strategies.aggregators import FixedPointSum, shift_of
from strategies.aggregators.base import RoundFacts
from strategies.aggregators.class_means import COUNTS, SUMS, ClassMeans, means_of
from strategies.config import TeacherConfig

# Of each site: examples, and by class their number and the sum of their vectors (of one number).
SITES = {"a": (4, [3, 1, 0], [6.0, 5.0, 0.0]), "b": (12, [2, 0, 10], [9.0, 0.0, 20.0])}


def sent(site: str) -> dict[str, Tensor]:
    examples, counts, sums = SITES[site]
    return {
        SUMS: torch.tensor(sums)[:, None] / examples,
        COUNTS: torch.tensor(counts, dtype=torch.float32) / examples,
    }


def state(sums: list[float], counts: list[float]) -> dict[str, Tensor]:
    return {SUMS: torch.tensor(sums)[:, None], COUNTS: torch.tensor(counts)}


NOTHING = state([0.0] * 3, [0.0] * 3)


def after(current: dict[str, Tensor], *sites: str) -> tuple[dict[str, Tensor], str | None]:
    aggregator = ClassMeans()
    aggregator.begin(current, {site: each[0] for site, each in SITES.items()})
    for site in sites:
        aggregator.add(site, sent(site), SITES[site][0])
    found = aggregator.finish()
    assert found is not None
    return found, aggregator.note


def test_means_are_over_all_examples_of_the_sites_that_answered() -> None:
    found, note = after(NOTHING, "a", "b")
    assert note is None
    assert torch.allclose((found[SUMS] / found[COUNTS][:, None])[:, 0], torch.tensor([3.0, 5, 2]))
    alone, _ = after(NOTHING, "a")
    assert float(alone[SUMS][0, 0] / alone[COUNTS][0]) == pytest.approx(2)
    assert float(alone[COUNTS][2]) == 0


def test_a_class_that_no_site_of_the_round_has_keeps_its_mean_and_that_is_said() -> None:
    before = state([0.1, 0.2, 0.3], [0.5, 0.25, 0.25])
    found, note = after(before, "a")
    assert note == "no site of the round has 1 of the 3 classes: they stay"
    assert torch.equal(found[SUMS][2], before[SUMS][2])
    assert torch.equal(found[COUNTS][2], before[COUNTS][2])
    assert torch.equal(found[SUMS][0], sent("a")[SUMS][0])


SENDERS = {"a": ([1.0, 2.0, 0.0], 10), "b": ([2.0, 1.0, 0.0], 20), "c": ([1.0, 3.0, 0.0], 10)}


def made_with(
    influence: str, bad: float, counts: list[float] | None = None, memory_mb: float = 1.0
) -> tuple[dict[str, Tensor], str | None]:
    """Return what is made of three sites and a bad one, whose class means are ``bad``."""
    sent = {site: (means, examples) for site, (means, examples) in SENDERS.items()}
    sent["bad"] = ([bad, bad, 0.0], 10)
    aggregator = ClassMeans()
    bounds = TeacherConfig(60.0, memory_mb, 1e6, influence, 3.0)
    aggregator.inform(RoundFacts(1, 0, 50, {}, bounds))
    aggregator.begin(NOTHING, {site: examples for site, (_, examples) in sent.items()})
    for site, (means, examples) in sent.items():
        shares = torch.tensor((counts if site == "bad" else None) or [0.5, 0.5, 0.0])
        update = {SUMS: (torch.tensor(means) * 0.5)[:, None], COUNTS: shares}
        aggregator.add(site, update, examples)
    found = aggregator.finish()
    assert found is not None
    return found, aggregator.note


def means_in(found: dict[str, Tensor]) -> list[float]:
    return [float(each) for each in means_of(found[SUMS], found[COUNTS])[0][:, 0]]


def test_the_class_means_of_a_bad_site_are_cut_and_that_is_said() -> None:
    found, note = made_with("clip", 1e4)
    # The median of the sites' median norms (1, 1, 1 and 10,000) is 1: at most 3 is taken.
    assert means_in(found) == pytest.approx([(10 + 40 + 10 + 30) / 50, (20 + 20 + 30 + 30) / 50, 0])
    assert note is not None
    assert note.startswith("2 of 2 class means of bad are cut to the norm 3, 3 times the median")
    assert means_in(made_with("none", 1e4)[0])[0] > 1000


def test_where_nobody_is_cut_no_bit_changes() -> None:
    for influence in ("clip", "none"):
        found, note = made_with(influence, 1.5)
        assert note is None
        assert all(torch.equal(found[name], made_with("none", 1.5)[0][name]) for name in found)


def test_the_median_over_sites_can_be_chosen() -> None:
    assert means_in(made_with("median", 1e4)[0]) == pytest.approx([1.5, 2.5, 0])


def test_counts_outside_of_0_to_1_are_cut() -> None:
    found, _ = made_with("clip", 1.0, [-5.0, 900.0, 0.0])
    assert found[COUNTS].tolist() == pytest.approx([0.4, 0.6, 0])


def test_what_takes_too_much_memory_is_not_limited_and_that_is_said() -> None:
    found, note = made_with("clip", 1e4, memory_mb=1e-5)
    assert note is not None
    assert note.startswith("no site is limited: they sent more than 1e-05 MB")
    assert means_in(found)[0] > 1000


def test_a_cohorts_sum_gives_the_bits_of_its_sites() -> None:
    whole, _ = after(NOTHING, "a", "b")
    expected = {site: each[0] for site, each in SITES.items()}
    added = FixedPointSum(shift_of(sum(expected.values())))
    for site, examples in expected.items():
        added.add(sent(site), examples)
    aggregator = ClassMeans()
    aggregator.begin(NOTHING, expected)
    aggregator.add_sum(expected, added.tensors)
    found = aggregator.finish()
    assert found is not None
    assert all(torch.equal(found[name], whole[name]) for name in whole)


def test_a_class_without_examples_has_no_mean() -> None:
    sums = torch.tensor([[2.0, 4.0], [0.0, 0.0], [1.0, 1.0]])
    means, there = means_of(sums, torch.tensor([0.5, 0.0, -1.0]))
    assert means.tolist() == [[4, 8], [0, 0], [0, 0]]
    assert there.tolist() == [True, False, False]


def test_a_mean_that_is_not_finite_is_none() -> None:
    means, there = means_of(torch.tensor([[1e30], [1.0]]), torch.tensor([1e-30, 1.0]))
    assert there.tolist() == [False, True]
    assert means.tolist() == [[0], [1]]
