"""Whether an update may be aggregated: everything about an answer is doubted first."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet

from flwr.app import Message
from torch import Tensor

from fedstrata.protocol import answers, codec, cohort_answers, limits
from fedstrata.protocol.answers import DeployReport, Metrics, RoundReport
from fedstrata.protocol.kinds import group_of
from fedstrata.protocol.limits import NotFinite, NotNow, Refused
from fedstrata.protocol.measures import MEASURES
from fedstrata.protocol.payload import PayloadError, check_values, decode
from fedstrata.protocol.tensors import TensorSpec
from models.groups import Partition, scope_keys
from server_app.rounds.contribution import Contribution, Reference, Update
from server_app.sites.members import Member
from strategies.aggregators import MAX_MAGNITUDE, largest_sum
from strategies.method import Method

VARIANCE = "running_var"  # of BatchNorm; its counter of batches is an integer, and never travels


def checked_update(
    reply: Message,
    member: Member,
    round_number: int,
    partition: Partition,
    method: Method,
    references: Mapping[str, Reference],
    within: float,
    groups: Collection[str],
    *,
    measured: bool = True,
) -> Update:
    """Return what a site learned, or raise Refused with the reason for which it is not taken.

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
    references : mapping of str to Reference
        By group, what the site trained from.
    within : float
        Seconds after which the order ran out.
    groups : collection of str
        Those that were asked for.
    measured : bool
        Whether the site was to measure the layers that it received.

    Raises
    ------
    Refused
        For another site's name or round, an example count that was not announced, a group or
        tensor too many or too few, another shape or dtype, a value that is not finite or larger
        than ``MAX_MAGNITUDE``, a negative variance, a loss or a time that makes no sense, records
        that do not belong in an answer, or the site's own error.
    """
    report = answers.read_round_report(reply)
    payloads = answers.read_payloads(reply)
    if report.error:
        raise refusal(report)
    _check_report(report, member, round_number, method, within, measured=measured)
    keys = scope_keys(partition, member.task)
    _check_groups(payloads.keys(), set(groups))
    contributions = {}
    for group, data in payloads.items():
        try:
            tensors = _updated(data, partition.schema(group), references[group])
        except PayloadError as error:
            raise Refused(f"group {group}: {error}") from None
        contributions[keys[group]] = Contribution(
            {member.site: report.examples}, tensors, len(data)
        )
    return Update({member.site: report}, {}, contributions)


def checked_cohort(
    reply: Message,
    members: Sequence[Member],
    round_number: int,
    partitions: Mapping[str, Partition],
    expected: Mapping[str, int],
    method: Method,
    within: float,
    *,
    measured: bool = True,
) -> Update:
    """Return what a cohort's sites learned, or raise Refused with the reason.

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
        By variant: the allow-list of tensors, with their shapes.
    expected : mapping of str to int
        By scope key, the examples of all sites asked.
    method : Method
        Says whether partial work is taken.
    within : float
        Seconds after which the order ran out.
    measured : bool
        Whether the sites were to measure the layers that they received.

    Raises
    ------
    Refused
        As `checked_update`; for a site that was not asked, or is not mentioned; for a scope too
        many or too few, and sums that are larger than such sites' can be.
    """
    messages = cohort_answers.split_cohort_answer(reply, len(members))
    if not messages:  # one report for all: the cohort could not do it
        report = answers.read_round_report(reply)
        why = report.error or "is a cohort, and answers as a site"
        raise (NotNow if report.later else Refused)(why)
    reports, problems = _cohort_reports(
        messages, members, round_number, method, within, measured=measured
    )
    sites, schemas = _expected_sums(members, reports, partitions, expected)
    payloads = answers.read_payloads(reply)
    _check_groups(payloads.keys(), sites.keys())
    contributions = {}
    for key, data in payloads.items():
        tensors = _sums(key, data, schemas[key], sites[key], expected[key])
        contributions[key] = Contribution(sites[key], tensors, len(data))
    return Update(reports, problems, contributions)


def check_report(
    report: RoundReport | DeployReport,
    member: Member,
    round_number: int,
    within: float,
    *,
    measured: bool = True,
) -> None:
    """Raise Refused for a report without an error that is not the member's, or makes no sense.

    Parameters
    ----------
    report : RoundReport or DeployReport
        What a site says of its work.
    member : Member
        The site that was asked; it announced its examples.
    round_number : int
        The round it was asked for.
    within : float
        Seconds after which the order ran out.
    measured : bool
        Whether it was to measure anything.
    """
    if report.site != member.site:
        raise Refused(f"answers as {report.site!r}, but this node is {member.site!r}")
    if report.round != round_number:
        raise Refused(f"answers round {report.round} in round {round_number}")
    announced = member.report.examples["train"]
    if not 0 < report.examples <= announced:
        raise Refused(
            f"reports {report.examples} examples to train on, but it announced {announced}"
        )
    if report.loss < 0:
        raise Refused(f"reports the training loss {report.loss:g}, which is negative")
    if not 0 <= report.seconds <= within:
        raise Refused(
            f"says that it took {report.seconds:g} s, and the order ran out after {within:g} s"
        )
    for metrics in _metrics_of(report, measured=measured):
        check_counted(metrics, member.report.examples)
        _check_kind(metrics, member)
    _check_classes(report, member)


def _metrics_of(report: RoundReport | DeployReport, *, measured: bool) -> list[Metrics]:
    """Return what a report measured; raise Refused where it did so unasked, or not as asked."""
    if isinstance(report, DeployReport):
        return [report.before, report.after]
    if not measured and report.metrics:
        raise Refused("carries metrics in a round in which it was to measure nothing")
    if measured and "test" not in report.metrics:
        raise Refused("carries no metrics of the test data")
    return [report.metrics] if measured else []


def check_counted(metrics: Metrics, announced: Mapping[str, int]) -> None:
    """Raise Refused for metrics of no examples, or of more than the site has: means weigh by them."""
    for split, values in metrics.items():
        measured = values["examples"] or 0
        if not 0 < measured <= announced[split]:
            raise Refused(
                f"measured {measured:g} {split} examples, it announced {announced[split]}"
            )


def _check_kind(metrics: Metrics, member: Member) -> None:
    """Raise Refused for the measures of another kind of task, or of other outputs."""
    kind, outputs = member.report.kind.name, len(member.report.classes)
    wanted = {"examples", *MEASURES[kind].of, *MEASURES[kind].of_outputs(outputs)}
    for split, values in metrics.items():
        if set(values) != wanted:
            raise Refused(f"measures {split} not as a task of {kind} with {outputs} outputs")


def _check_classes(report: RoundReport | DeployReport, member: Member) -> None:
    """Raise Refused for measures of another number of classes than the member has."""
    found = (
        [report.by_class]
        if isinstance(report, RoundReport)
        else [report.before_by_class, report.after_by_class]
    )
    for each in found:
        if each is not None and len(each.classes) != len(member.report.classes):
            raise Refused(f"measures {len(each.classes)} of {len(member.report.classes)} classes")


def refusal(report: RoundReport | DeployReport) -> Refused:
    """Return the exception for a site's own error.

    It is `NotNow` where the site may be asked again later, and `NotFinite` where it diverged.
    """
    if isinstance(report, RoundReport) and report.diverged:
        return NotFinite(report.error)
    return (NotNow if report.later else Refused)(report.error)


def _check_report(
    report: RoundReport,
    member: Member,
    round_number: int,
    method: Method,
    within: float,
    *,
    measured: bool,
) -> None:
    """Raise Refused for a report without an error that is not of the member's work in the round."""
    check_report(report, member, round_number, within, measured=measured)
    if not 0 <= report.steps <= report.planned:
        raise Refused(f"did {report.steps} of {report.planned} steps")
    if reason := method.reject_reason(report.steps, report.planned):
        raise Refused(reason)


def _check_groups(sent: AbstractSet[str], allowed: AbstractSet[str]) -> None:
    """Raise Refused where the groups, or scopes, that were sent are not those that may be."""
    if extra := sent - allowed:
        raise Refused(f"sends groups that may not leave a site: {', '.join(sorted(extra))}")
    if missing := allowed - sent:
        raise Refused(f"does not send group {', '.join(sorted(missing))}")


def _updated(
    data: bytes, schema: Mapping[str, TensorSpec], reference: Reference
) -> dict[str, Tensor]:
    """Return a group's tensors after training, as a site answered them; or raise PayloadError."""
    changes = codec.decode(data, schema, reference.coding, max_magnitude=MAX_MAGNITUDE, borrow=True)
    tensors = {name: reference.update(name, change) for name, change in changes.items()}
    # Adding a difference can exceed the limit though each part was within it. What came whole was
    # checked by `decode`.
    computed = {name: t for name, t in tensors.items() if t is not changes[name].value}
    check_values(computed, MAX_MAGNITUDE)
    _check_variances(tensors, reference.current)
    return tensors


def _check_variances(tensors: Mapping[str, Tensor], current: Mapping[str, Tensor]) -> None:
    """Raise PayloadError for a running variance below 0: its root is in every BatchNorm's output.

    Where the state itself has one below 0, as a server optimizer can make it, training brings it
    nearer to 0.
    """
    for name, tensor in tensors.items():
        if name.rpartition(".")[2] == VARIANCE and (tensor < current[name].clamp(max=0)).any():
            raise PayloadError(f"{name!r} has a negative variance, {tensor.min().item():g}")


def _cohort_reports(
    messages: Sequence[Message],
    members: Sequence[Member],
    round_number: int,
    method: Method,
    within: float,
    *,
    measured: bool,
) -> tuple[dict[str, RoundReport], dict[str, Refused]]:
    """Return the reports of the sites that trained, and why the others did not, by site."""
    by_name = {member.site: member for member in members}
    reports: dict[str, RoundReport] = {}
    problems: dict[str, Refused] = {}
    for message in messages:
        report = answers.read_round_report(message)
        member = by_name.pop(report.site, None)
        if member is None:
            shown = limits.printable(report.site)[:80]
            raise Refused(f"the cohort answers for {shown!r}, which it was not asked for")
        if report.error:
            problems[report.site] = refusal(report)
            continue
        try:
            _check_report(report, member, round_number, method, within, measured=measured)
        except Refused as error:
            raise Refused(f"in the cohort's sum is {report.site}: {error}") from None
        reports[report.site] = report
    if by_name:
        raise Refused(f"the cohort says nothing of {', '.join(sorted(by_name))}")
    return reports, problems


def _expected_sums(
    members: Sequence[Member],
    reports: Mapping[str, RoundReport],
    partitions: Mapping[str, Partition],
    expected: Mapping[str, int],
) -> tuple[dict[str, dict[str, int]], dict[str, dict[str, TensorSpec]]]:
    """Return by scope key the sites that must be in its sum, with examples; and its tensors."""
    sites: dict[str, dict[str, int]] = {}
    schemas: dict[str, dict[str, TensorSpec]] = {}
    for member in members:
        if member.site in reports:
            partition = partitions[member.variant]
            for group, key in scope_keys(partition, member.task).items():
                if key not in expected:
                    continue
                sites.setdefault(key, {})[member.site] = reports[member.site].examples
                schemas[key] = partition.schema(group)
    return sites, schemas


def _sums(
    key: str,
    data: bytes,
    schema: Mapping[str, TensorSpec],
    sites: Mapping[str, int],
    expected: int,
) -> dict[str, Tensor]:
    """Return the sums of a scope; of one site alone, its update. Raise Refused for anything else."""
    most = MAX_MAGNITUDE
    if len(sites) > 1:
        schema = {name: TensorSpec(spec.shape, "int64") for name, spec in schema.items()}
        most = largest_sum(sum(sites.values()), expected)
    try:
        return decode(data, schema, max_magnitude=most)
    except PayloadError as error:
        raise Refused(f"group {group_of(key)}: {error}") from None
