"""Programs of peers begin with the weights that were written, and report in the stock app's form."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from benchmarks.flower.stock import stock_summary
from benchmarks.measure.simulated_sites import perceptron as ours
from benchmarks.measure.simulated_sites import write_data, written_average
from benchmarks.peers.site_files import Report, perceptron, read_sites


def test_sites_and_network_are_those_that_were_written(tmp_path: Path) -> None:
    write_data(tmp_path, 2)
    network, expected = perceptron(tmp_path / "start.npz"), ours()
    pairs = zip(network.parameters(), expected.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    sites = read_sites(tmp_path / "sites", 2)
    with np.load(tmp_path / "sites" / "1.npz", allow_pickle=False) as arrays:
        assert np.array_equal(sites[1].train_x.numpy(), arrays["train_x"])
        assert np.array_equal(sites[1].test_y.numpy(), arrays["test_y"])
    inputs = sites[0].test_x
    with torch.no_grad():
        assert torch.equal(network(inputs), expected(inputs))


def test_a_report_is_read_as_that_of_the_stock_app(tmp_path: Path) -> None:
    report = Report(3)
    for accuracy in (0.5, 0.75):
        report.end_round(accuracy=accuracy)
    report.write(tmp_path, [torch.ones(2), torch.zeros(1)])
    rounds, model = stock_summary(tmp_path, 3)
    assert [each["metrics"] for each in rounds] == [{"accuracy": 0.5}, {"accuracy": 0.75}]
    assert rounds[0]["ended"] <= rounds[1]["ended"]
    assert model == 3 * 4
    assert [each.tolist() for each in written_average(tmp_path)] == [[1.0, 1.0], [0.0]]
