"""What an answer adds to the sums, and what differences are taken to."""

from __future__ import annotations

import torch

from fedstrata.protocol.codec import Change
from fedstrata.protocol.codings import EXACT
from server_app.rounds.contribution import Contribution, Reference
from strategies.aggregators import FixedPointSum, make_aggregator, shift_of

ONE, TWO = {"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([3.0, 6.0])}


def mean(*contributions: Contribution) -> torch.Tensor:
    aggregator = make_aggregator("fedavg", {}, "here")
    aggregator.begin({"w": torch.zeros(2)}, {"a": 10, "b": 30})
    for contribution in contributions:
        contribution.add_to(aggregator)
    after = aggregator.finish()
    assert after is not None
    return after["w"]


def test_a_sum_of_several_sites_gives_the_bits_of_their_own_updates() -> None:
    apart = mean(Contribution({"a": 10}, ONE, 8), Contribution({"b": 30}, TWO, 8))
    total = FixedPointSum(shift_of(40))
    total.add(ONE, 10)
    total.add(TWO, 30)
    together = mean(Contribution({"a": 10, "b": 30}, dict(total.tensors), 16))
    assert torch.equal(apart, together)
    assert torch.allclose(apart, torch.tensor([2.5, 5.0]))


def test_a_difference_moves_the_servers_state() -> None:
    current, received = {"w": torch.tensor([1.0])}, {"w": torch.tensor([0.5])}
    reference = Reference(EXACT, received, current)
    assert reference.update("w", Change(difference=torch.tensor([0.25]))) == 1.25
    assert reference.update("w", Change(value=torch.tensor([0.75]))) == 1.25
    assert reference.update("w", Change()) is current["w"]
