"""Whether an update may be aggregated: everything about an answer is doubted first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flwr.app import Message
from torch import Tensor

from fedstrata.protocol import answers, codec, limits
from fedstrata.protocol.answers import DeployReport, Metrics, RoundReport
from fedstrata.protocol.kinds import group_of
from fedstrata.protocol.limits import NotNow, Refused
from fedstrata.protocol.payload import PayloadError, check_values, decode
from fedstrata.protocol.tensors import TensorSpec
from models.groups import Partition, keys_of
from server_app.rounds import checks
from server_app.rounds.contribution import CohortUpdate, Contribution, Reference, Update
from server_app.sites.members import Member
from strategies.aggregators import MAX_MAGNITUDE, largest_sum
from strategies.method import Method


def checked_update(
    reply: Message,
    member: Member,
    round_number: int,
    partition: Partition,
    method: Method,
    sent: Mapping[str, Reference],
) -> Update:
    """Return what a site learned, or raise Refused with the reason why it is not taken.

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
    sent : mapping of str to Reference
        By group, what the site trained from.

    Raises
    ------
    Refused
        For another site's name or round, an example count that was not announced, a group or
        tensor too many or too few, another shape or dtype, a value that is not finite or larger
        than ``MAX_MAGNITUDE``, records that do not belong in an answer, or the site's own error.
    """
    report = answers.read_round_report(reply)
    payloads = answers.read_payloads(reply)
    if report.error:
        raise (NotNow if report.later else Refused)(report.error)
    _check_report(report, member, round_number, method)
    allowed = set(partition.exchanged_groups())
    if extra := set(payloads) - allowed:
        raise Refused(f"sends groups that may not leave a site: {', '.join(sorted(extra))}")
    if missing := allowed - set(payloads):
        raise Refused(f"does not send group {', '.join(sorted(missing))}")
    tensors = {}
    for group, data in payloads.items():
        try:
            tensors[group] = _learnt(data, partition.schema(group), sent[group])
        except PayloadError as error:
            raise Refused(f"group {group}: {error}") from None
    return Update(report, tensors, {group: len(data) for group, data in payloads.items()})


def _learnt(data: bytes, schema: Mapping[str, TensorSpec], sent: Reference) -> dict[str, Tensor]:
    """Return a group's tensors after training, from what a site answered; PayloadError if it is none."""
    changes = codec.decode(data, schema, sent.coding, max_magnitude=MAX_MAGNITUDE, borrow=True)
    tensors = {name: sent.update(name, change) for name, change in changes.items()}
    moved = {name: t for name, t in tensors.items() if t is not changes[name].value}
    check_values(moved, MAX_MAGNITUDE)  # decode has seen the others
    return tensors


def checked_cohort(
    reply: Message,
    members: Sequence[Member],
    round_number: int,
    partitions: Mapping[str, Partition],
    expected: Mapping[str, int],
    method: Method,
) -> CohortUpdate:
    """Return what a cohort's sites learned, or raise Refused with the reason why it is not taken.

    A site that says why it did not train is not in the sums. Where anything is wrong with one that
    did, nothing of the cohort can be taken: its update cannot be told from the others'.

    Parameters
    ----------
    reply : Message
        The answer to the order of a round, with content.
    members : sequence of Member
        The sites that were asked.
    round_number : int
        The round they were asked for.
    partitions : mapping of str to Partition
        By task: the allow-list of tensors, with their shapes.
    expected : mapping of str to int
        By scope key, the examples of all sites asked.
    method : Method
        Says whether partial work is taken.

    Raises
    ------
    Refused
        As `checked_update`; for a site that was not asked, or is not spoken of; for a scope too
        many or too few, and sums that are larger than such sites' can be.
    """
    letters = answers.letters(reply, len(members))
    if not letters:  # one report for all: the cohort could not do it
        told = answers.read_round_report(reply)
        raise (NotNow if told.later else Refused)(
            told.error or "is a cohort, and answers as a site"
        )
    reports, problems = _cohort_reports(letters, members, round_number, method)
    contents: dict[str, dict[str, int]] = {}
    schemas: dict[str, dict[str, TensorSpec]] = {}
    for member in members:
        if member.site in reports:
            for group, key in keys_of(partitions[member.task], member.task).items():
                contents.setdefault(key, {})[member.site] = reports[member.site].examples
                schemas[key] = partitions[member.task].schema(group)
    payloads = answers.read_payloads(reply)
    if extra := payloads.keys() - contents.keys():
        raise Refused(f"sends groups that may not leave a site: {', '.join(sorted(extra))}")
    if missing := contents.keys() - payloads.keys():
        raise Refused(f"does not send group {', '.join(sorted(missing))}")
    shares = {}
    for key, data in payloads.items():
        schema, most = schemas[key], MAX_MAGNITUDE
        if len(contents[key]) > 1:
            schema = {name: TensorSpec(spec.shape, "int64") for name, spec in schema.items()}
            most = largest_sum(sum(contents[key].values()), expected[key])
        try:
            tensors = decode(data, schema, max_magnitude=most)
        except PayloadError as error:
            raise Refused(f"group {group_of(key)}: {error}") from None
        shares[key] = Contribution(contents[key], tensors, len(data))
    return CohortUpdate(reports, problems, shares)


def _cohort_reports(
    letters: Sequence[Message], members: Sequence[Member], round_number: int, method: Method
) -> tuple[dict[str, RoundReport], dict[str, Refused]]:
    """Return the reports of the sites that trained, and why the others did not, by site."""
    by_name = {member.site: member for member in members}
    reports: dict[str, RoundReport] = {}
    problems: dict[str, Refused] = {}
    for incoming in letters:
        told = answers.read_round_report(incoming)
        member = by_name.pop(told.site, None)
        if member is None:
            shown = limits.printable(told.site)[:80]
            raise Refused(f"the cohort answers for {shown!r}, which it was not asked for")
        if told.error:
            problems[told.site] = (NotNow if told.later else Refused)(told.error)
            continue
        try:
            _check_report(told, member, round_number, method)
        except Refused as error:
            raise Refused(f"in the cohort's sum is {told.site}: {error}") from None
        reports[told.site] = told
    if by_name:
        raise Refused(f"the cohort says nothing of {', '.join(sorted(by_name))}")
    return reports, problems


def check_told(report: RoundReport | DeployReport, member: Member, round_number: int) -> None:
    """Raise Refused for a report without an error that is not the member's, of its own examples."""
    if report.site != member.site:
        raise Refused(f"answers as {report.site!r}, but this node is {member.site!r}")
    if report.round != round_number:
        raise Refused(f"answers round {report.round} in round {round_number}")
    announced = member.report.examples["train"]
    if not 0 < report.examples <= announced:
        raise Refused(f"tells of {report.examples} examples to train on, it announced {announced}")
    if isinstance(report, DeployReport):
        measured = [report.before, report.after]
    elif "test" in report.metrics:
        measured = [report.metrics]
    else:
        raise Refused("carries no metrics of the test data")
    for metrics in measured:
        checks.check_counted(metrics, member.report.examples)


def _check_report(report: RoundReport, member: Member, round_number: int, method: Method) -> None:
    """Raise Refused for a report without an error that is not of the member's work in the round."""
    check_told(report, member, round_number)
    if not 0 <= report.steps <= report.planned:
        raise Refused(f"did {report.steps} of {report.planned} steps")
    if reason := method.refuses(report.steps, report.planned):
        raise Refused(reason)


def check_counted(metrics: Metrics, announced: Mapping[str, int]) -> None:
    """Raise Refused for metrics of more examples than a site has, or of none: means weigh by them."""
    for split, values in metrics.items():
        measured = values["examples"] or 0
        if not 0 < measured <= announced[split]:
            raise Refused(
                f"measured {measured:g} {split} examples, it announced {announced[split]}"
            )
