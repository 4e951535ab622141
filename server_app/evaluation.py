"""The end of the rounds: what the last state is worth at every site, beside training alone."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from flwr.app import Array, Message
from flwr.superlink.grid.grpc_grid import GrpcGrid
from torch import Tensor

from fedstrata.protocol import answers, kinds
from fedstrata.protocol.answers import DeployReport, RoundReport
from fedstrata.protocol.limits import NotNow, Refused
from fedstrata.protocol.measure_words import measures_of
from fedstrata.protocol.task_kinds import CLASSES
from server_app.baseline_cache import (
    ALONE,
    POOLED,
    BaselineCache,
    Baselines,
    Reused,
    reused_lines,
)
from server_app.choosing import Best
from server_app.class_records import over_sites, record_of
from server_app.measure_words import gain_over_alone
from server_app.patience import Patience
from server_app.rounds.checks import check_report, refusal
from server_app.rounds.dispatch import TTL_MARGIN, Ask, Dispatch
from server_app.rounds.records import (
    RoundRecord,
    baseline_name,
    mean_of_known,
    named_measures,
    numerics_record,
    site_record,
    task_metrics,
    weighted_mean,
)
from server_app.run_folder import Saved
from server_app.sites.members import Member

AnyReport = TypeVar("AnyReport", RoundReport, DeployReport)
Take = Callable[[Member, Message], None]  # takes the layers of an answer; raises Refused
States = Mapping[str, Mapping[str, Tensor]]  # by scope key
MEANS = (
    "accuracy",
    "balanced_accuracy",
    "majority_accuracy",
    "alone_accuracy",
    "pooled_accuracy",
)
TRAINED = {
    kinds.ALONE: (ALONE, "training {} sites alone, to compare"),
    kinds.POOLED: (POOLED, "training on the data of {} sites in one place, to compare"),
}
"""By order, what sites are compared with: its name, and what the log says of it."""
TRAINED_AS = ("alone", "pooled")  # the keys of a site's record


@dataclass(frozen=True)
class Others:
    """What a model is compared with, by site: the site trained alone, and all data in one place."""

    alone: Mapping[str, Mapping[str, Any] | None]
    pooled: Mapping[str, Mapping[str, Any] | None]


def measure(
    dispatch: Dispatch,
    baselines: Baselines,
    *,
    keep: str = "",
    state: int = 0,
    last: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """Evaluate the last state at every member and, where asked for, what it is compared with.

    Parameters
    ----------
    dispatch : Dispatch
        The way to the sites, and the last state.
    baselines : Baselines
        What each member is also trained as, to compare.
    keep, state : str, int
        With ``keep`` each site writes its whole model, as `fedstrata.protocol.orders.Order` says;
        it is of the state after round ``state``.
    last : mapping of str to int, optional
        By site, the round of its last update that was taken: without its own layers of that, or of
        a later one, it has another model, and says so.

    Returns
    -------
    dict
        ``final`` of results.json; docs/results.md explains it.
    """
    members = list(dispatch.roster.members.values())
    ask = replace(last_ask(dispatch, kinds.EVALUATE), keep=keep, state=state, last=last)
    reports, record = ask_reports(dispatch, ask, members, answers.read_round_report)
    config = baselines.config
    # No deployed site is asked for what needs all data.
    pooled = config.pooled and not isinstance(dispatch.grid, GrpcGrid)
    wanted = {kinds.ALONE: config.alone, kinds.POOLED: pooled}
    found = {
        kind: _trained(dispatch, kind, members, state, reports, baselines.cache)
        if asked
        else ({}, {})
        for kind, asked in wanted.items()
    }
    others = Others(found[kinds.ALONE][0], found[kinds.POOLED][0])
    reused = {"alone": found[kinds.ALONE][1], "pooled": found[kinds.POOLED][1]}
    return {**_summary(dispatch, reports, record, others), "reused": reused}


def measure_best(
    dispatch: Dispatch,
    best: Best,
    states: States | None,
    final: Mapping[str, Any],
    *,
    keep: str = "",
) -> dict[str, Any]:
    """Evaluate the best state at every member, as it was measured in the rounds.

    Parameters
    ----------
    dispatch : Dispatch
        The way to the sites.
    best : Best
        Which state it is.
    states : mapping of str to mapping, or None
        Its layers by scope key; None where it is the last, which ``final`` is of.
    final : mapping
        ``final`` of results.json.
    keep : str
        As in `measure`.

    Returns
    -------
    dict
        ``best`` of results.json.
    """
    if states is None:
        return {**final, **best.to_dict()}
    members = list(dispatch.roster.members.values())
    # The round that measured this state: the site takes the personal layers which that began with.
    ask = replace(last_ask(dispatch, kinds.EVALUATE), number=best.round + 1, states=states)
    ask = replace(ask, keep=keep, state=best.round, best=best.round)
    what = f"the best state, after round {best.round}: "
    reports, record = ask_reports(dispatch, ask, members, answers.read_round_report, what=what)
    sites = final["sites"].items()
    others = Others(
        {name: site["alone"] for name, site in sites},
        {name: site["pooled"] for name, site in sites},
    )
    summary = _summary(dispatch, reports, record, others)
    return {**summary, "reused": final["reused"], **best.to_dict()}


def saved_ask(dispatch: Dispatch, saved: Saved, states: States, fresh: Collection[str]) -> Ask:
    """Return what is asked to measure the state of a checkpoint as its round did.

    The sites ``fresh`` trained in no round of that run.
    """
    ask = replace(last_ask(dispatch, kinds.EVALUATE), number=saved.round + 1, states=states)
    return replace(ask, best=saved.round, fresh=fresh)


def measure_saved(dispatch: Dispatch, ask: Ask) -> dict[str, Any]:
    """Evaluate the state of `saved_ask` at every member; return ``final`` of results.json."""
    members = list(dispatch.roster.members.values())
    reports, record = ask_reports(dispatch, ask, members, answers.read_round_report)
    reused: dict[str, dict[str, str]] = {"alone": {}, "pooled": {}}
    return {**_summary(dispatch, reports, record, Others({}, {})), "reused": reused}


def _summary(
    dispatch: Dispatch,
    reports: Mapping[str, RoundReport],
    record: RoundRecord,
    others: Others,
) -> dict[str, Any]:
    """Return what results.json has of an evaluation."""
    by_name = dispatch.roster.members
    sites = {name: site_record(by_name[name], report) for name, report in reports.items()}
    for name, site in sites.items():
        interval = reports[name].interval
        site["interval"] = None if interval is None else list(interval)
        site |= compared(site, by_name[name], others.alone.get(name), others.pooled.get(name))
        site |= record_of(reports[name].by_class, by_name[name].report.classes)
    tasks = task_metrics(sites)
    for task, summary in tasks.items():
        own = [site for site in sites.values() if site["task"] == task]
        summary |= _comparison_of_task(summary, own) | over_sites(own)
    of_classes = [site for site in sites.values() if site["kind"] == CLASSES]
    gains = with_gains(of_classes)
    return {
        "tasks": tasks,
        "sites": sites,
        "mean": {
            **{name: mean_of_known(site[name] for site in of_classes) for name in MEANS},
            "gain_over_alone": mean_of_known(site["gain"] for site in gains),
            **how_many(of_classes),
        },
        "weighted_mean": {
            **{name: weighted_mean(of_classes, name) for name in MEANS},
            "gain_over_alone": weighted_mean(gains, "gain"),
            **how_many(of_classes),
        },
        **missing(record),
    }


def compared(
    site: Mapping[str, Any],
    member: Member,
    alone: Mapping[str, Any] | None,
    pooled: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Return what stands beside a site's measures: a guess without input, alone, in one place."""
    leading = measures_of(site).leading
    baseline = member.report.baseline
    shown = {"baseline": dict(baseline)} if site["kind"] != CLASSES else {}
    return {
        **shown,
        baseline_name(site): baseline[leading],
        "alone": alone,
        f"alone_{leading}": None if alone is None else alone[leading],
        "pooled": pooled,
        f"pooled_{leading}": None if pooled is None else pooled[leading],
    }


def _comparison_of_task(
    summary: Mapping[str, Any], sites: Collection[Mapping[str, Any]]
) -> dict[str, Any]:
    leading = measures_of(summary).leading
    names = (baseline_name(summary), f"alone_{leading}", f"pooled_{leading}")
    return {
        **{name: weighted_mean(sites, name) for name in names},
        "gain_over_alone": weighted_mean(with_gains(sites), "gain"),
        **how_many(sites),
    }


def with_gains(sites: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return sites with ``gain``: the leading measure over that alone, None where there is none."""
    return [{**site, "gain": gain_over_alone(site)} for site in sites]


def how_many(sites: Collection[Mapping[str, Any]]) -> dict[str, int]:
    """Return over how many sites the means of what they are compared with are."""
    return {f"{what}_sites": sum(each[what] is not None for each in sites) for what in TRAINED_AS}


def trained_alone(
    dispatch: Dispatch, members: Collection[Member], played: int
) -> dict[str, dict[str, Any]]:
    """Return the measures on the test data of each site trained without the others, by site.

    Each trains in as many rounds as the run ``played``, also where that stopped before its last. With
    the measures is what the site computed with: it can differ from the rounds.
    """
    return _trained(dispatch, kinds.ALONE, members, played)[0]


def _as_long(dispatch: Dispatch, played: int) -> str:
    planned = dispatch.settings.rounds
    return f"{played} rounds, as the run" + (f", of {planned}" if played < planned else "")


def _trained(
    dispatch: Dispatch,
    kind: str,
    members: Collection[Member],
    played: int,
    measured: Mapping[str, RoundReport] | None = None,
    cache: BaselineCache | None = None,
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Return the measures of what sites are compared with, and what of it was trained before.

    Parameters
    ----------
    dispatch : Dispatch
        The way to the sites.
    kind : str
        The order: training alone, or in one place.
    members : collection of Member
        The sites.
    played : int
        In how many rounds of the run; it may have stopped before its last.
    measured : mapping of str to RoundReport, optional
        What they have just answered.
    cache : BaselineCache, optional
        What was trained before.

    Returns
    -------
    tuple of dict and dict
        Measures on the test data, by site; the run that trained it, of sites that did not train.
    """
    what, text = TRAINED[kind]
    ask = replace(last_ask(dispatch, kind, layers={}), state=played)
    by_name = {member.site: member for member in members}
    keys, kept = dict[str, str](), dict[str, Reused]()
    if cache is not None:
        now = {name: report.numerics for name, report in (measured or {}).items()}
        keys = {n: cache.key(what, each, now.get(n), played) for n, each in by_name.items()}
        found = {n: cache.read(key, by_name[n], ask.number) for n, key in keys.items() if key}
        kept = {name: before for name, before in sorted(found.items()) if before is not None}
    reused = {name: before.run for name, before in kept.items()}
    for line in reused_lines(what, reused, len(members)):
        dispatch.log(line)
    reports = {name: before.report for name, before in kept.items()}
    lacking = [member for member in members if member.site not in kept]
    if lacking or not kept:
        dispatch.log(f"{text.format(len(lacking))}: {_as_long(dispatch, played)}")
        if kind == kinds.POOLED and len(own := {member.report.model for member in members}) > 1:
            dispatch.log(f"each of {', '.join(sorted(own))} on the data of the sites that have it")
        made, _ = ask_reports(dispatch, ask, lacking, answers.read_round_report, what=f"{what}: ")
        for name, report in made.items():
            if cache is not None and keys[name]:
                cache.write(keys[name], report)
        reports |= made
    rows = {name: _test_measures(by_name[name], each) for name, each in sorted(reports.items())}
    return rows, reused


def _test_measures(member: Member, report: RoundReport) -> dict[str, Any]:
    measures = named_measures(member, report.metrics["test"])
    del measures["examples"]
    return {**measures, "numerics": numerics_record(report)}


def last_ask(dispatch: Dispatch, kind: str, *, layers: Mapping[str, Array] | None = None) -> Ask:
    """Return what is asked after the last round; ``layers`` instead of the last state."""
    settings = dispatch.settings
    return Ask(kind, settings.rounds + 1, settings.final_timeout, layers=layers)


def ask_reports(
    dispatch: Dispatch,
    ask: Ask,
    members: Iterable[Member],
    read: Callable[[Message], AnyReport],
    *,
    what: str = "",
    take: Take | None = None,
) -> tuple[dict[str, AnyReport], RoundRecord]:
    """Ask sites for a report after the last round, and for nothing else unless ``take`` has it.

    Who is outside its hours is asked again, until ``strategy.give_up`` seconds have passed.

    Parameters
    ----------
    dispatch : Dispatch
        The way to the sites, and the last state.
    ask : Ask
        What is asked.
    members : iterable of Member
        Who is asked.
    read : callable
        Reads an answer; raises Refused where it is none.
    what : str
        Goes before each line of the log about a site that gave no report.
    take : callable, optional
        Takes the layers of an answer; when omitted, none may be in it.

    Returns
    -------
    tuple of dict and RoundRecord
        Reports by site, sorted; who gave none, and why.
    """
    settings, log = dispatch.settings, dispatch.log
    record = RoundRecord(ask.number)
    reports: dict[str, AnyReport] = {}
    patience = Patience(log, settings.give_up)
    asked = sorted(members, key=lambda member: member.site)
    for attempt in itertools.count():
        closed = _ask_once(dispatch, ask, asked, read, reports, record, take or _without_layers)
        if patience.begin().is_over() or not closed:
            break
        reasons = "; ".join(f"{site}: {reason}" for site, reason in sorted(closed.items()))
        patience.remind(f"{what}asked again later: {reasons}")
        patience.pause(
            attempt,
            settings.poll,
            closed=True,
            interrupted=lambda: dispatch.admission.welcome(dispatch.roster.connected()),
        )
        asked = [dispatch.roster.everyone[site] for site in sorted(closed)]
    if closed:
        log(
            f"{what}gave up on {', '.join(sorted(closed))} after {settings.give_up:g} s "
            "(strategy.give_up); the same command with resume asks them again"
        )
    record.refused |= closed
    for why, sites in missing(record).items():
        for site, reason in sites.items():
            log(f"{what}{why}: {site}: {reason}")
    return dict(sorted(reports.items())), record


def _ask_once(
    dispatch: Dispatch,
    ask: Ask,
    members: Iterable[Member],
    read: Callable[[Message], AnyReport],
    reports: dict[str, AnyReport],
    record: RoundRecord,
    take: Take,
) -> dict[str, str]:
    """Add the reports that arrive to ``reports``; return who is outside its hours, and says so."""
    closed: dict[str, str] = {}
    for member, reply in dispatch.ask_each(ask, members, record):
        try:
            reports[member.site] = _checked(read(reply), member, ask)
            take(member, reply)
        except NotNow as error:
            closed[member.site] = str(error)
        except Refused as error:
            reports.pop(member.site, None)
            record.refused[member.site] = str(error)
            dispatch.state.downlink.failed(member.site)  # it is sent whole layers the next time
    return closed


def _without_layers(member: Member, reply: Message) -> None:
    """Raise Refused for an answer with layers."""
    del member
    answers.expect_no_layers(reply)


def missing(record: RoundRecord) -> dict[str, dict[str, str]]:
    """Return who gave no report, and why: ``refused``, ``late`` and ``absent``, by site."""
    return {
        why: dict(sorted(getattr(record, why).items())) for why in ("refused", "late", "absent")
    }


def _checked(report: AnyReport, member: Member, ask: Ask) -> AnyReport:
    """Return a report that is the member's, of this order; or raise Refused."""
    if report.error:
        raise refusal(report)
    check_report(report, member, ask.number, ask.seconds + TTL_MARGIN)
    return report
