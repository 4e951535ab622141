"""FedAvg as a skilled user writes it in one process, without a library: plain torch over tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.peers.site_files import Report, Site, parser, perceptron, read_sites


@torch.no_grad()
def load(parameters: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Copy ``values`` into ``parameters``."""
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)


def train(network: nn.Module, site: Site, *, epochs: int, batch_size: int, rate: float) -> None:
    """Train on a site's examples by SGD with momentum, which starts anew."""
    optimizer = torch.optim.SGD(network.parameters(), lr=rate, momentum=0.9)
    starts = range(0, len(site.train_y), batch_size)
    for _ in range(epochs):
        for batch in (slice(start, start + batch_size) for start in starts):
            inputs, labels = site.train_x[batch], site.train_y[batch]
            optimizer.zero_grad()
            cross_entropy(network(inputs), labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()


@torch.no_grad()
def accuracy(network: nn.Module, sites: Sequence[Site]) -> float:
    """Return the share of right answers over the test examples of all sites."""
    right = sum(int((network(each.test_x).argmax(1) == each.test_y).sum()) for each in sites)
    return right / sum(len(each.test_y) for each in sites)


def federated_averaging(
    network: nn.Module,
    sites: Sequence[Site],
    *,
    rounds: int,
    epochs: int,
    batch_size: int,
    rate: float,
    after_round: Callable[..., object],
) -> None:
    """Train ``network``: each round all sites, their average by examples, and its test accuracy."""
    parameters = list(network.parameters())
    examples = sum(len(site.train_y) for site in sites)
    for _ in range(rounds):
        received = [each.detach().clone() for each in parameters]
        # In float64: sums of thousands of sites in float32 are off by more than what is compared.
        average = [torch.zeros_like(each, dtype=torch.float64) for each in received]
        for site in sites:
            load(parameters, received)
            train(network, site, epochs=epochs, batch_size=batch_size, rate=rate)
            with torch.no_grad():
                for total, parameter in zip(average, parameters, strict=True):
                    total.add_(parameter, alpha=len(site.train_y) / examples)
        load(parameters, average)
        after_round(accuracy=accuracy(network, sites))


def main() -> None:
    """Run the rounds that the command line asks for."""
    options = parser(__doc__).parse_args()
    network = perceptron(options.start)
    report = Report(options.sites)
    federated_averaging(
        network,
        read_sites(options.data, options.sites),
        rounds=options.num_server_rounds,
        epochs=options.local_epochs,
        batch_size=options.batch_size,
        rate=options.lr,
        after_round=report.end_round,
    )
    report.write(options.output, list(network.parameters()))


if __name__ == "__main__":
    main()
