"""What an update adds to the sums: of one site, or of a cohort."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from fedstrata.protocol.answers import RoundReport
from fedstrata.protocol.codec import Change, same_bits
from fedstrata.protocol.codings import Coding
from fedstrata.protocol.limits import Refused
from strategies.aggregators import Aggregator


@dataclass(frozen=True)
class Reference:
    """What a site trains a group from, and how it answers.

    Parameters
    ----------
    coding : Coding
        Of the answer.
    received : mapping of str to Tensor
        What the site was sent: differences and unchanged tensors are to that.
    current : mapping of str to Tensor
        The group's state at the server, which is more exact where layers travel down coded. The
        same tensors where they do not.
    """

    coding: Coding
    received: Mapping[str, Tensor]
    current: Mapping[str, Tensor]

    def update(self, name: str, change: Change) -> Tensor:
        """Return a tensor as if the site had trained from ``current``; a new one, or the state's own."""
        current, received = self.current[name], self.received[name]
        if change.difference is not None:
            return current + change.difference
        if change.value is None:
            return current
        if current is received or same_bits(current, received):
            return change.value
        return current + (change.value - received)


@dataclass(frozen=True)
class Contribution:
    """What an answer adds to the sums of one scope: of one site, or of several at once.

    Parameters
    ----------
    sites : dict of str to int
        Who is in it, with the examples that each trained on.
    tensors : dict of str to Tensor
        The one site's update; of several sites, their sum in int64, see `FixedPointSum`. They may
        be views of the answer's own bytes: they are read, and never written to.
    size : int
        In bytes, as it traveled.
    """

    sites: dict[str, int]
    tensors: dict[str, Tensor]
    size: int

    def add_to(self, aggregator: Aggregator) -> None:
        """Give the contribution to the aggregator of its scope."""
        if len(self.sites) > 1:
            aggregator.add_sum(self.sites, self.tensors)
            return
        ((site, examples),) = self.sites.items()
        aggregator.add(site, self.tensors, examples)


@dataclass(frozen=True)
class Update:
    """An answer to a training order that passed the checks, of a site alone or of a cohort.

    Parameters
    ----------
    reports : dict of str to RoundReport
        Of the sites that trained, by name.
    problems : dict of str to Refused
        Why the other sites that were asked did not, by name.
    contributions : dict of str to Contribution
        By scope key.
    """

    reports: dict[str, RoundReport]
    problems: dict[str, Refused]
    contributions: dict[str, Contribution]

    def weighted(self, site: str, weights: Mapping[str, int]) -> Update:
        """Return the update with other examples of its one site, by scope key."""
        contributions = {
            key: replace(contribution, sites={site: weights[key]})
            for key, contribution in self.contributions.items()
        }
        return replace(self, contributions=contributions)
