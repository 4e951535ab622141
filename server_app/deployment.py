"""The final model in use: fine-tuned by every site itself, and by sites that join after the rounds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from fedstrata.protocol import answers, kinds
from fedstrata.protocol.answers import DeployReport
from fedstrata.protocol.class_measures import ByClass
from fedstrata.protocol.measures import MEASURES
from fedstrata.protocol.task_kinds import CLASSES
from fedstrata.support.errors import UserError, nearest
from models.groups import Partition, Scope
from server_app.class_records import record_of
from server_app.evaluation import ask_reports, last_ask, missing, trained_alone
from server_app.rounds.dispatch import Dispatch
from server_app.rounds.records import (
    baseline_name,
    kind_record,
    mean_of_known,
    named_measures,
    numerics_record,
)
from server_app.sites.members import Member
from server_app.sites.roster import Roster
from strategies.partitioned_model import tuned_groups

MEANS = ("before", "after", "gain", "alone", "over_alone", "majority_accuracy")


def check_newcomers(roster: Roster, partitions: Mapping[str, Partition]) -> None:
    """Raise UserError where the newcomers cannot be what the configuration says.

    Parameters
    ----------
    roster : Roster
        Who joined; ``newcomer_names`` has those that are configured.
    partitions : mapping of str to Partition
        Of each variant.

    Raises
    ------
    UserError
        For a name that no site has, and for a task that shares layers, but whose sites are all
        newcomers: nobody would train these layers.
    """
    sites = set(roster.everyone) | {one.site for one in roster.rejected}
    for name in sorted(roster.newcomer_names - sites):
        raise UserError(
            f"deployment.newcomers: {name!r} is no site of this run; nearest: "
            f"{nearest(name, sites)}; there are {', '.join(sorted(sites - {''}))}"
        )
    trained = {member.task for member in roster.members.values()}
    for site, member in sorted(roster.newcomers.items()):
        if member.task not in trained and _shares_by_task(partitions[member.variant]):
            raise UserError(
                f"deployment.newcomers: task {member.task!r} of {site} has no site besides "
                "newcomers, so nobody would train its layers: take one of its sites out of "
                "deployment.newcomers, or empty groups.task"
            )


def tuning_line(partitions: Mapping[str, Partition], wanted: Sequence[str] | None) -> str:
    """Return what will be fine-tuned after the rounds, and at which tasks nothing can be.

    Raises
    ------
    UserError
        Where it is nothing at any task.
    """
    by_groups: dict[tuple[str, ...], list[str]] = {}
    for task, partition in sorted(partitions.items()):
        by_groups.setdefault(tuned_groups(partition, wanted), []).append(task)
    if not any(by_groups):
        named = ", ".join(wanted or ())
        (least,) = {tuned_groups(each, None) for each in [next(iter(partitions.values()))]}
        raise UserError(
            f"deployment.groups=[{named}] has no layers of this run, so deployment.epochs would tune "
            f"nothing: write deployment.groups=[{','.join(least)}], or deployment.epochs=0"
        )
    said = [
        f"{', '.join(groups) or 'nothing (deployment.groups has no layers there)'} at task "
        + ", ".join(tasks)
        for groups, tasks in by_groups.items()
    ]
    return f"fine-tuning after the rounds: {'; '.join(said)}"


def deploy(
    dispatch: Dispatch,
    final: Mapping[str, Any],
    *,
    alone: bool,
    state: int = 0,
    last: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """Let every member and every newcomer fine-tune the last state; ask how good it is there.

    Parameters
    ----------
    dispatch : Dispatch
        The way to the sites, and the last state.
    final : mapping
        ``final`` of results.json: what the members are worth trained alone stands there.
    alone : bool
        Whether the newcomers are trained alone too, to compare.
    state : int
        After which round that state is, for the models' cards.
    last : mapping of str to int, optional
        By site, the round of its last update that was taken.

    Returns
    -------
    dict
        ``deployment`` of results.json; docs/results.md explains it.
    """
    roster = dispatch.roster
    dispatch.log("fine-tuning the final model at every site by itself")
    reports, record = ask_reports(
        dispatch,
        replace(last_ask(dispatch, kinds.DEPLOY), state=state, last=last),
        roster.everyone.values(),
        answers.read_deploy_report,
        what="fine-tuning: ",
    )
    alone_of = {name: site["alone"] for name, site in final["sites"].items()}
    if alone and roster.newcomers:
        alone_of |= trained_alone(dispatch, roster.newcomers.values(), state)
    sites, newcomers = (
        {
            name: _entry(side[name], reports[name], alone_of.get(name))
            for name in reports
            if name in side
        }
        for side in (roster.members, roster.newcomers)
    )
    return {
        "sites": sites,
        "newcomers": newcomers,
        "mean": {"sites": _means(sites.values()), "newcomers": _means(newcomers.values())},
        **missing(record),
    }


def _shares_by_task(partition: Partition) -> bool:
    groups = partition.exchanged_groups()
    return any(partition.group(group).scope is Scope.SAME_TASK for group in groups)


def _entry(member: Member, report: DeployReport, alone: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return one site's entry: the measures of the test data, those on validation below."""
    before = _measures(member, report.before, report.before_by_class)
    after = _measures(member, report.after, report.after_by_class)
    measures = MEASURES[member.report.kind.name]
    leading, kind = measures.leading, kind_record(member)
    return {
        "task": member.task,
        **kind,
        "before": before,
        "after": after,
        "gain": measures.gain(after[leading], before[leading]),
        "alone": alone,
        "over_alone": measures.gain(after[leading], None if alone is None else alone[leading]),
        baseline_name(kind): member.report.baseline[leading],
        "tuned": report.tuned,
        "train_examples": report.examples,
        "train_loss": report.loss,
        "steps": report.steps,
        "planned_steps": report.planned,
        "seconds": report.seconds,
        "numerics": numerics_record(report),
    }


def _measures(member: Member, metrics: answers.Metrics, by_class: ByClass | None) -> dict[str, Any]:
    return {
        **named_measures(member, metrics["test"]),
        "validation": named_measures(member, metrics["validation"]),
        **record_of(by_class, member.report.classes),
    }


def _means(entries: Iterable[Mapping[str, Any]]) -> dict[str, float | None]:
    """Return the unweighted means of the accuracies, each over the sites that have one.

    And over how many sites those are that compare with training alone.
    """
    flat = [
        {
            name: value["accuracy"] if isinstance(value, Mapping) else value
            for name, value in entry.items()
            if name in MEANS
        }
        for entry in entries
        if entry["kind"] == CLASSES
    ]
    compared = sum(entry["over_alone"] is not None for entry in flat)
    means = {name: mean_of_known(entry[name] for entry in flat) for name in MEANS}
    return {**means, "alone_sites": compared}
