"""The plain loop is FedAvg, as ours is, and its test accuracy is of all sites' examples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.measure.simulated_sites import BATCH, OURS, RATE, our_average, write_data
from benchmarks.peers.plain_loop import accuracy, federated_averaging
from benchmarks.peers.site_files import Site, perceptron, read_sites
from benchmarks.simulate import TOLERANCE
from tests.loopback import simulate


@pytest.mark.parametrize("epochs", [1, 3])
def test_it_ends_at_the_average_of_ours(tmp_path: Path, epochs: int) -> None:
    write_data(tmp_path, 4)
    network = perceptron(tmp_path / "start.npz")
    before = [each.detach().clone().numpy() for each in network.parameters()]
    ended: list[float] = []
    federated_averaging(
        network,
        read_sites(tmp_path / "sites", 4),
        rounds=2,
        epochs=epochs,
        batch_size=BATCH,
        rate=RATE,
        after_round=lambda accuracy: ended.append(accuracy),
    )
    overrides = (*OURS, f"train.epochs={epochs}", "strategy.rounds=2", "strategy.poll=0.01")
    root = str(tmp_path / "har.npz")
    results, _ = simulate(tmp_path / "output", "har", overrides, sites=4, data_root=root)
    moved = 0.0
    pairs = zip(network.parameters(), our_average(tmp_path / "output"), before, strict=True)
    for theirs, ours, start in pairs:
        assert np.abs(theirs.detach().numpy() - ours).max() <= TOLERANCE
        moved = max(moved, float(np.abs(ours - start).max()))
    assert moved > 20 * TOLERANCE
    assert len(ended) == len(results["rounds"]) == 2


def test_a_site_weighs_as_many_examples_as_it_has() -> None:
    # One weight, no bias, one class: nothing is learned, so a site's result is what it received.
    network = nn.Linear(1, 2, bias=False)
    ones, zeros = torch.ones(3, 1), torch.zeros(1, 1)
    sites = [
        Site(ones, torch.zeros(3, dtype=torch.int64), ones, torch.zeros(3, dtype=torch.int64)),
        Site(zeros, torch.ones(1, dtype=torch.int64), ones[:1], torch.ones(1, dtype=torch.int64)),
    ]
    network.weight.data.zero_()
    federated_averaging(
        network, sites, rounds=1, epochs=1, batch_size=4, rate=1.0, after_round=lambda accuracy: 0
    )
    # The first site's gradient is -0.5 and 0.5, the second's is 0, for its input is.
    assert network.weight.flatten().tolist() == pytest.approx([0.375, -0.375])
    assert accuracy(network, sites) == 0.75  # all are taken for class 0
