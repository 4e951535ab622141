"""The server's control variate moves by the share of the sites that answered."""

from __future__ import annotations

import torch

from strategies.aggregators.base import RoundFacts
from strategies.aggregators.control_variates import ControlVariates

C = {"w": torch.tensor([1.0, 2.0])}


def after(examples_of_all: int) -> torch.Tensor:
    aggregator = ControlVariates()
    aggregator.inform(RoundFacts(1, 0, examples_of_all, {}))
    aggregator.begin(C, {"a": 10, "b": 30})
    aggregator.add("a", {"w": torch.tensor([5.0, 2.0])}, 10)
    aggregator.add("b", {"w": torch.tensor([1.0, 6.0])}, 30)
    found = aggregator.finish()
    assert found is not None
    return found["w"]


def test_of_all_sites_it_is_the_mean_and_of_half_it_goes_half_the_way() -> None:
    assert torch.equal(after(40), torch.tensor([2.0, 5.0]))
    assert torch.equal(after(80), torch.tensor([1.5, 3.5]))
