"""What acts on the mean gets that of FedAvg, of single updates and of sums alike."""

from __future__ import annotations

import torch
from torch import Tensor

from strategies.aggregators.acts_on_mean import ActsOnMean
from strategies.aggregators.base import Options
from strategies.aggregators.fedavg import FixedPointSum, shift_of

CURRENT = {"w": torch.zeros(2)}
EXPECTED = {"a": 10, "b": 30}


class Doubled(ActsOnMean):
    """Twice the mean."""

    def _after(self, mean: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: 2 * tensor for name, tensor in mean.items()}


def test_single_updates_and_their_sum_give_the_same_bits() -> None:
    updates = {"a": torch.tensor([4.0, 0.1]), "b": torch.tensor([0.0, 0.3])}
    found = []
    for summed in (False, True):
        aggregator = Doubled(Options())
        aggregator.begin(CURRENT, EXPECTED)
        if summed:
            added = FixedPointSum(shift_of(40))
            for site, tensor in updates.items():
                added.add({"w": tensor}, EXPECTED[site])
            aggregator.add_sum(EXPECTED, added.tensors)
        else:
            for site, tensor in updates.items():
                aggregator.add(site, {"w": tensor}, EXPECTED[site])
        after = aggregator.finish()
        assert after is not None
        found.append(after["w"])
    assert torch.equal(*found)
    assert torch.allclose(found[0], torch.tensor([2.0, 0.5]))


def test_a_round_without_updates_is_no_step() -> None:
    aggregator = Doubled(Options())
    aggregator.begin(CURRENT, EXPECTED)
    assert aggregator.finish() is None
