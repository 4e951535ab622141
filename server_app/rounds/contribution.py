"""What an update adds to the sums: of one site, or of a cohort."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from fedstrata.protocol.answers import RoundReport
from fedstrata.protocol.codec import Change, same_bits
from fedstrata.protocol.codings import Coding
from fedstrata.protocol.limits import Refused


@dataclass(frozen=True)
class Update:
    """An answer that passed: the report, the tensors and the bytes of each exchanged group.

    The tensors are views of the answer's own bytes: to be read, not written to.
    """

    report: RoundReport
    tensors: dict[str, dict[str, Tensor]]
    sizes: dict[str, int]


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
    """What a cohort sends of one scope.

    Parameters
    ----------
    sites : dict of str to int
        Who is in it, with the examples that each trained on.
    tensors : dict of str to Tensor
        The one site's update; of several sites, their sum in int64, see `FixedPointSum`.
    size : int
        In bytes, as it travelled.
    """

    sites: dict[str, int]
    tensors: dict[str, Tensor]
    size: int


@dataclass(frozen=True)
class CohortUpdate:
    """A cohort's answer that passed.

    Parameters
    ----------
    reports : dict of str to RoundReport
        Of the sites that trained, by name.
    problems : dict of str to Refused
        Why the other sites that were asked did not, by name.
    shares : dict of str to Contribution
        By scope key.
    """

    reports: dict[str, RoundReport]
    problems: dict[str, Refused]
    shares: dict[str, Contribution]
