"""The end of the rounds: what the last state is worth at every site, beside training alone."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, TypeVar

from flwr.app import Array, Message

from fedstrata.protocol import answers, kinds
from fedstrata.protocol.answers import DeployReport, RoundReport
from fedstrata.protocol.limits import NotNow, Refused
from server_app.patience import Reminder
from server_app.rounds.checks import check_told
from server_app.rounds.loop import Rounds
from server_app.rounds.records import (
    MEASURES,
    RoundRecord,
    site_record,
    task_metrics,
    weighted_mean,
)
from server_app.sites.members import Member

TwofoldText = TypeVar("TwofoldText", RoundReport, DeployReport)
MEANS = ("accuracy", "balanced_accuracy", "majority_accuracy", "alone_accuracy")


def measure(rounds: Rounds, *, alone: bool) -> dict[str, Any]:
    """Evaluate the last state at every member and, where asked for, the members trained alone.

    Returns
    -------
    dict
        ``final`` of results.json; docs/results.md explains it.
    """
    members = list(rounds.roster.members.values())
    told, record = ask_reports(rounds, kinds.EVALUATE, members, answers.read_round_report)
    by_name = {member.site: member for member in members}
    sites = {name: site_record(by_name[name], report) for name, report in told.items()}
    apart = trained_alone(rounds, members) if alone else {}
    for name, site in sites.items():
        site["majority_accuracy"] = by_name[name].report.majority_accuracy
        site["alone"] = apart.get(name)
        site["alone_accuracy"] = apart[name]["accuracy"] if name in apart else None
    tasks = task_metrics(sites)
    for task, summary in tasks.items():
        own = [site for site in sites.values() if site["task"] == task]
        for name in ("majority_accuracy", "alone_accuracy"):
            summary[name] = weighted_mean(own, name)
    return {
        "tasks": tasks,
        "sites": sites,
        "mean": {name: mean(site[name] for site in sites.values()) for name in MEANS},
        **missing(record),
    }


def trained_alone(
    rounds: Rounds, members: Collection[Member]
) -> dict[str, dict[str, float | None]]:
    """Return the measures on the test data of each site trained without the others, by site."""
    rounds.log(f"training {len(members)} sites alone, to compare")
    told, _ = ask_reports(
        rounds, kinds.ALONE, members, answers.read_round_report, layers={}, what="alone: "
    )
    return {
        name: {what: report.metrics["test"][what] for what in MEASURES}
        for name, report in told.items()
    }


def ask_reports(
    rounds: Rounds,
    kind: str,
    members: Iterable[Member],
    read: Callable[[Message], TwofoldText],
    *,
    layers: Mapping[str, Array] | None = None,
    what: str = "",
) -> tuple[dict[str, TwofoldText], RoundRecord]:
    """Ask sites for a report, and nothing but a report, after the last round.

    Who is outside its hours is asked again, until ``strategy.give_up`` seconds have passed.

    Parameters
    ----------
    rounds : Rounds
        The way to the sites, and the last state.
    kind : str
        What is ordered, as fedstrata/protocol/answers.py names it.
    members : iterable of Member
        Who is asked.
    read : callable
        Reads an answer; raises Refused where it is none.
    layers : mapping, optional
        What the order carries instead of the last state.
    what : str
        Goes before each line of the log about a site that gave no report.

    Returns
    -------
    tuple of dict and RoundRecord
        Reports by site, sorted; who gave none, and why.
    """
    number = rounds.settings.rounds + 1
    record = RoundRecord(number)
    asked = sorted(members, key=lambda member: member.site)
    told: dict[str, TwofoldText] = {}
    remind, give_up = Reminder(rounds.log), math.inf
    for attempt in itertools.count():
        closed: dict[str, str] = {}
        for member, reply in rounds.ask(
            kind, asked, number, record, rounds.settings.final_timeout, layers=layers
        ):
            try:
                told[member.site] = _checked(read(reply), member, number)
                answers.expect_no_layers(reply)
            except NotNow as error:
                closed[member.site] = str(error)
            except Refused as error:
                told.pop(member.site, None)
                record.refused[member.site] = str(error)
                rounds.server_state.downlink.failed(
                    member.site
                )  # it is sent the whole the next time
        give_up = min(give_up, time.monotonic() + rounds.settings.give_up)
        if not closed or time.monotonic() >= give_up:
            break
        said = "; ".join(f"{site}: {reason}" for site, reason in sorted(closed.items()))
        remind(f"{what}asked again later: {said}")
        rounds.pause(attempt, give_up, closed=True)
        asked = [rounds.roster.everyone[site] for site in sorted(closed)]
    if closed:
        rounds.log(
            f"{what}gave up on {', '.join(sorted(closed))} after {rounds.settings.give_up:g} s "
            "(strategy.give_up); the same command with resume asks them again"
        )
    record.refused |= closed
    for why, reasons in missing(record).items():
        for name, reason in reasons.items():
            rounds.log(f"{what}{why}: {name}: {reason}")
    return dict(sorted(told.items())), record


def missing(record: RoundRecord) -> dict[str, dict[str, str]]:
    """Return who gave no report, and why: ``refused``, ``late`` and ``absent``, by site."""
    return {
        why: dict(sorted(getattr(record, why).items())) for why in ("refused", "late", "absent")
    }


def mean(values: Iterable[float | None]) -> float | None:
    """Return the mean of what is there, or None."""
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else None


def _checked(told: TwofoldText, member: Member, number: int) -> TwofoldText:
    """Return a report that is the member's, of this order; or raise Refused."""
    if told.error:
        raise (NotNow if told.later else Refused)(told.error)
    check_told(told, member, number)
    return told
