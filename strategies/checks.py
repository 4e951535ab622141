"""Whether an update may be aggregated: everything about an answer is doubted first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flwr.app import Message
from torch import Tensor

from models.groups import Partition
from strategies import wire
from strategies.aggregators import MAX_MAGNITUDE
from strategies.codec import Change, decode, same_bits
from strategies.codings import EXACT, Coding
from strategies.method import Method
from strategies.payload import PayloadError
from strategies.roster import Member
from strategies.wire import NotNow, Refused, RoundReport


@dataclass(frozen=True)
class Update:
    """An answer that passed: the report, the tensors and the bytes of each exchanged group."""

    report: RoundReport
    tensors: dict[str, dict[str, Tensor]]
    sizes: dict[str, int]


@dataclass(frozen=True)
class Sent:
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


def checked_update(
    reply: Message,
    member: Member,
    round_number: int,
    partition: Partition,
    method: Method,
    sent: Mapping[str, Sent] | None = None,
) -> Update:
    """Return what a site learnt, or raise Refused with the reason why it is not taken.

    Parameters
    ----------
    reply : Message
        The answer to the order of a round, with content.
    member : Member
        The site that was asked.
    round_number : int
        The round it was asked for.
    partition : Partition
        Of the member's task: the allow-list of tensors, with their shapes and dtypes.
    method : Method
        Says whether partial work is taken.
    sent : mapping of str to Sent, optional
        By group, what the site had; without it all that is taken is whole tensors.

    Raises
    ------
    Refused
        For another site's name or round, an example count that was not announced, a group or
        tensor too many or too few, another shape or dtype, a value that is not finite or larger
        than ``MAX_MAGNITUDE``, records that do not belong in an answer, or the site's own error.
    """
    report = wire.read_round_report(reply)
    payloads = wire.read_payloads(reply)
    if report.error:
        raise (NotNow if report.later else Refused)(report.error)
    if report.site != member.site:
        raise Refused(f"answers as {report.site!r}, but this node is {member.site!r}")
    if report.round != round_number:
        raise Refused(f"answers round {report.round} in round {round_number}")
    announced = member.report.examples["train"]
    if not 0 < report.examples <= announced:
        raise Refused(f"trained on {report.examples} examples, it announced {announced}")
    if not 0 <= report.steps <= report.planned:
        raise Refused(f"did {report.steps} of {report.planned} steps")
    if "test" not in report.metrics:
        raise Refused("carries no metrics of the test data")
    if reason := method.refuses(report.steps, report.planned):
        raise Refused(reason)
    allowed = set(partition.exchanged_groups())
    if extra := set(payloads) - allowed:
        raise Refused(f"sends groups that may not leave a site: {', '.join(sorted(extra))}")
    if missing := allowed - set(payloads):
        raise Refused(f"does not send group {', '.join(sorted(missing))}")
    tensors = {}
    for group, data in payloads.items():
        try:
            tensors[group] = _tensors(data, group, partition, (sent or {}).get(group))
        except PayloadError as error:
            raise Refused(f"group {group}: {error}") from None
    return Update(report, tensors, {group: len(data) for group, data in payloads.items()})


def _tensors(data: bytes, group: str, partition: Partition, sent: Sent | None) -> dict[str, Tensor]:
    coding = sent.coding if sent else EXACT
    changes = decode(data, partition.schema(group), coding, max_magnitude=MAX_MAGNITUDE)
    tensors = {}
    for name, change in changes.items():
        if sent is None and change.value is None:
            raise PayloadError(f"{name!r} is unchanged, but nothing was sent")
        tensor = change.value if sent is None else sent.update(name, change)
        assert tensor is not None
        if tensor is not change.value and not (tensor.abs() <= MAX_MAGNITUDE).all():
            raise PayloadError(f"{name!r} has a magnitude above {MAX_MAGNITUDE:g}")
        tensors[name] = tensor
    return tensors
