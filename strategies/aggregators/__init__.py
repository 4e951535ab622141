"""The aggregators, by the name they have in conf/aggregator/."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from fedstrata.support.errors import UserError, nearest
from fedstrata.support.options import read_options
from strategies.aggregators.base import Aggregator, Options, Tensors
from strategies.aggregators.buffered import BufferedOptions
from strategies.aggregators.coordinatewise import Median, TrimmedMean, TrimmedMeanOptions
from strategies.aggregators.fedavg import (
    EXAMPLES_SLACK,
    MAX_MAGNITUDE,
    FedAvg,
    FixedPointSum,
    largest_sum,
    shift_of,
)
from strategies.aggregators.krum import Krum, KrumOptions
from strategies.aggregators.server_optimizers import (
    AdaptiveOptions,
    FedAdam,
    FedAvgM,
    FedAvgMOptions,
    FedYogi,
)

__all__ = [
    "AGGREGATORS",
    "EXAMPLES_SLACK",
    "MAX_MAGNITUDE",
    "Aggregator",
    "FixedPointSum",
    "Tensors",
    "largest_sum",
    "make",
    "shift_of",
]


class _Entry(NamedTuple):
    aggregator: Any
    options: type[Options]


AGGREGATORS: Mapping[str, _Entry] = MappingProxyType(
    {
        "fedavg": _Entry(FedAvg, Options),
        "fedavgm": _Entry(FedAvgM, FedAvgMOptions),
        "fedadam": _Entry(FedAdam, AdaptiveOptions),
        "fedyogi": _Entry(FedYogi, AdaptiveOptions),
        "median": _Entry(Median, BufferedOptions),
        "trimmed_mean": _Entry(TrimmedMean, TrimmedMeanOptions),
        "krum": _Entry(Krum, KrumOptions),
    }
)
"""Every name that ``make`` knows, with the class and the dataclass of its hyper-parameters."""


def make(
    name: str, options: Mapping[str, object], where: str = "strategy.aggregators"
) -> Aggregator:
    """Return a new aggregator; one is needed per group and scope.

    Parameters
    ----------
    name : str
        One of ``AGGREGATORS``.
    options : Mapping
        Its hyper-parameters, all of them, as in conf/aggregator/; a key ``name`` is left aside.
    where : str
        The place in the configuration, for error texts, such as ``strategy.aggregators.task``.

    Raises
    ------
    UserError
        For a name that does not exist, or options that are missing, unknown or out of range.
    """
    entry = AGGREGATORS.get(name)
    if entry is None:
        close = nearest(name, AGGREGATORS)
        raise UserError(f"{where}: no aggregator is called {name!r}; there is {close}")
    read = read_options(entry.options, options, where)
    read.check(where)
    aggregator: Aggregator = entry.aggregator(read)
    return aggregator
