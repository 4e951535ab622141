"""The aggregators, by the name they have in conf/aggregator/."""

from __future__ import annotations

from collections.abc import Mapping

from fedstrata.support.options import read_options
from fedstrata.support.registry import find
from strategies.aggregators.base import Aggregator, RoundFacts, Tensors
from strategies.aggregators.coordinatewise import Median, TrimmedMean
from strategies.aggregators.fedavg import (
    EXAMPLES_SLACK,
    MAX_MAGNITUDE,
    FedAvg,
    FixedPointSum,
    largest_sum,
    shift_of,
)
from strategies.aggregators.krum import Krum
from strategies.aggregators.server_optimizers import FedAdam, FedAvgM, FedYogi

__all__ = [
    "AGGREGATORS",
    "EXAMPLES_SLACK",
    "MAX_MAGNITUDE",
    "Aggregator",
    "FixedPointSum",
    "RoundFacts",
    "Tensors",
    "largest_sum",
    "make_aggregator",
    "shift_of",
]


AGGREGATORS: Mapping[str, type[Aggregator]] = {
    "fedavg": FedAvg,
    "fedavgm": FedAvgM,
    "fedadam": FedAdam,
    "fedyogi": FedYogi,
    "median": Median,
    "trimmed_mean": TrimmedMean,
    "krum": Krum,
}


def make_aggregator(
    name: str, options: Mapping[str, object], where: str = "strategy.aggregators"
) -> Aggregator:
    """Return a new aggregator; one is needed per group and scope.

    Parameters
    ----------
    name : str
        One of `AGGREGATORS`.
    options : Mapping
        All of its hyper-parameters, as in conf/aggregator/; a key ``name`` is ignored.
    where : str
        The place in the configuration, for error texts, such as ``strategy.aggregators.task``.

    Raises
    ------
    UserError
        For a name that does not exist, or options that are missing, unknown or out of range.
    """
    chosen = find(f"{where}.name", name, AGGREGATORS)
    read = read_options(chosen.options_type, options, where)
    read.check(where)
    return chosen(read)
