"""Whether an update may be aggregated: everything about an answer is doubted first."""

from __future__ import annotations

from dataclasses import dataclass

from flwr.app import Message
from torch import Tensor

from models.groups import Partition
from strategies import wire
from strategies.aggregators import MAX_MAGNITUDE
from strategies.method import Method
from strategies.payload import PayloadError, decode
from strategies.roster import Member
from strategies.wire import NotNow, Refused, RoundReport


@dataclass(frozen=True)
class Update:
    """An answer that passed: the report, the tensors and the bytes of each exchanged group.

    The tensors are views of the answer's own bytes: to be read, not written to.
    """

    report: RoundReport
    tensors: dict[str, dict[str, Tensor]]
    sizes: dict[str, int]


def checked_update(
    reply: Message, member: Member, round_number: int, partition: Partition, method: Method
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
            schema = partition.schema(group)
            tensors[group] = decode(data, schema, max_magnitude=MAX_MAGNITUDE, borrow=True)
        except PayloadError as error:
            raise Refused(f"group {group}: {error}") from None
    return Update(report, tensors, {group: len(data) for group, data in payloads.items()})
