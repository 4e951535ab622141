"""The weight of FedProx's proximal term follows the mean loss of the sites."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from strategies.aggregators import FixedPointSum, shift_of
from strategies.aggregators.proximal_weight import LOSS, MU, ProximalWeight


def played(weight: ProximalWeight, mu: float, *losses: float) -> list[float]:
    """Play a round for each loss; return mu after each."""
    state = {MU: torch.tensor([mu]), LOSS: torch.zeros(1)}
    found = []
    for loss in losses:
        weight.begin(state, {"a": 3, "b": 1})
        weight.add("a", {MU: torch.tensor([9.0]), LOSS: torch.tensor([loss])}, 3)
        weight.add("b", {MU: torch.tensor([9.0]), LOSS: torch.tensor([loss])}, 1)
        state = finished(weight)
        found.append(round(float(state[MU]), 6))
    return found


def finished(weight: ProximalWeight) -> dict[str, Tensor]:
    state = weight.finish()
    assert state is not None
    return state


def test_it_rises_where_the_loss_rose_and_says_so() -> None:
    weight = ProximalWeight(0.1)
    assert played(weight, 0.5, 1.0, 2.0, 3.0) == [0.5, 0.6, 0.7]
    assert weight.note == "mu goes from 0.6 to 0.7: the mean loss 2 -> 3"


def test_it_falls_after_five_falls_in_a_row_and_never_below_0() -> None:
    falling = [float(10 - i) for i in range(11)]
    assert played(ProximalWeight(0.1), 0.15, *falling) == [0.15] * 5 + [0.05] * 5 + [0.0]


def test_a_rise_and_a_standstill_interrupt_the_falls() -> None:
    rise = [9.0, 8.0, 7.0, 6.0, 5.0, 5.5, 4.0, 3.0, 2.0, 1.0]
    assert played(ProximalWeight(0.1), 1.0, *rise)[-1] == pytest.approx(1.1)
    still = [9.0, 8.0, 7.0, 6.0, 5.0, 5.0, 4.0, 3.0, 2.0, 1.0]
    assert played(ProximalWeight(0.1), 1.0, *still)[-1] == 1.0


def test_the_loss_is_the_mean_weighted_by_examples_also_of_a_cohort() -> None:
    current = {MU: torch.tensor([0.5]), LOSS: torch.zeros(1)}
    sent = {"a": ({MU: torch.ones(1), LOSS: torch.tensor([1.0])}, 3)}
    sent["b"] = ({MU: torch.ones(1), LOSS: torch.tensor([5.0])}, 1)
    alone, cohort = ProximalWeight(0.1), ProximalWeight(0.1)
    for each in (alone, cohort):
        each.begin(current, {"a": 3, "b": 1})
    sums = FixedPointSum(shift_of(4))
    for site, (update, examples) in sent.items():
        alone.add(site, update, examples)
        sums.add(update, examples)
    cohort.add_sum({"a": 3, "b": 1}, sums.tensors)
    for state in (finished(alone), finished(cohort)):
        assert float(state[LOSS]) == 2.0
        assert float(state[MU]) == 0.5


def test_a_resumed_run_continues_with_the_loss_and_the_falls() -> None:
    whole, first, second = (ProximalWeight(0.1) for _ in range(3))
    assert first.state_dict() == {}
    losses = [9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 5.0]
    expected = played(whole, 0.5, *losses)
    mu = played(first, 0.5, *losses[:4])[-1]
    second.load_state_dict(first.state_dict())
    assert played(second, mu, *losses[4:]) == expected[4:]


def test_a_state_of_another_rule_is_an_error() -> None:
    with pytest.raises(ValueError, match="has a loss and falls"):
        ProximalWeight(0.1).load_state_dict({"momentum": torch.ones(1)})
