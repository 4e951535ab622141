"""Each site's layers on each other site's test data, for sites of one task: measures alone come back.

Of ``models`` it is the whole model that a site deploys: its own layers and its fine-tuning included.
In a simulation it is on the same disk, where the site that measures reads it. In a deployment it
would have to leave its site, so it is refused there.

Of ``updates`` it is what a site exchanges, after it trained the last state once more. Each other site
measures that with its own personal layers. Only sites that allow both take part.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from flwr.app import Message
from rich.table import Table
from torch import Tensor

from fedstrata.protocol import answers, kinds, orders
from fedstrata.protocol.codings import EXACT
from fedstrata.protocol.measure_words import WORDS, measures_of, value_words
from fedstrata.protocol.plan import OF_MODELS, OF_UPDATES
from server_app.evaluation import ask_reports, last_ask, missing
from server_app.rounds.checks import checked_update
from server_app.rounds.contribution import Reference
from server_app.rounds.dispatch import TTL_MARGIN, Ask, Dispatch
from server_app.rounds.records import RoundRecord, kind_record, named_measures
from server_app.sites.members import Member
from server_app.tables import rendered

LAST_STATE = "the last state"  # a row of the log's table
WHAT = "cross-site: "  # before each line of the log


@dataclass
class CrossSite:
    """The table while it is made.

    Parameters
    ----------
    of : str
        What is measured: ``models`` or ``updates``.
    members : mapping of str to Member
        The sites of the run.
    state, round : str, int
        Of which state, and after which round that is.
    values : dict
        By model and by site whose data it is, the measures.
    missing : list of dict
        Pairs that could not be measured, and why.
    left_out : dict
        Sites that take no part, and why.
    """

    of: str
    members: Mapping[str, Member]
    state: str
    round: int
    values: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    missing: list[dict[str, str]] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)

    def measure(self, dispatch: Dispatch, ask: Ask, of: Mapping[str, str]) -> None:
        """Let each site of ``of`` measure the layers of the site that is named there."""
        asked = [self.members[name] for name in of]
        each = replace(ask, of=of)
        reports, record = ask_reports(dispatch, each, asked, answers.read_round_report, what=WHAT)
        for name, report in reports.items():
            found = named_measures(self.members[name], report.metrics["test"])
            self.values.setdefault(of[name], {})[name] = found
        for name, reason in _reasons(record).items():
            self.missing.append({"model": of[name], "data": name, "reason": reason})

    def to_dict(self, by_task: Mapping[str, Iterable[str]]) -> dict[str, Any]:
        """Return ``cross_site`` of results.json."""
        return {
            "of": self.of,
            "state": self.state,
            "round": self.round,
            "tasks": {
                task: {
                    **kind_record(self.members[next(iter(names))]),
                    "models": {
                        name: dict(sorted(self.values.get(name, {}).items())) for name in names
                    },
                }
                for task, names in sorted(by_task.items())
            },
            "missing": self.missing,
            "left_out": dict(sorted(self.left_out.items())),
        }


@dataclass(frozen=True)
class Crossed:
    """Whose models are measured, of which state.

    Parameters
    ----------
    state : str
        ``deployed``, ``best`` or ``last``.
    round : int
        After which round that state is.
    own : mapping of str to mapping
        By site, what its model of that state is worth on its own test data, as results.json has it.
    reasons : mapping of str to str
        Why other sites have no such model, as far as that is known.
    """

    state: str
    round: int
    own: Mapping[str, Mapping[str, Any]]
    reasons: Mapping[str, str]


def crossed_models(ends: Mapping[str, Any], kept: Collection[str], played: int) -> Crossed:
    """Return which of their models the sites deploy.

    It is the fine-tuned one, where there is one. Else it is that of the best state, where the sites
    write it, or that of the last. Where a run measures another one, it is of the state that it measures.

    Parameters
    ----------
    ends : mapping
        ``final``, ``best``, ``deployment`` and ``measured_run`` of results.json, as far as they are
        there.
    kept : collection of str
        Of which states the sites write their models.
    played : int
        How many rounds the run played.
    """
    if measured := ends.get("measured_run"):
        final, new = ends["final"], measured["newcomers"]
        own = {name: site for name, site in final["sites"].items() if name not in new}
        reasons = {**_why(final), **dict.fromkeys(new, "it took no part in that run")}
        return Crossed(measured["state"], measured["round"], own, reasons)
    if tuned := ends.get("deployment"):
        entries = {**tuned["sites"], **tuned["newcomers"]}
        own = {name: {**each, **each["after"]} for name, each in entries.items()}
        return Crossed(orders.DEPLOYED, played, own, _why(tuned))
    best = ends.get("best") if orders.BEST in kept else None
    found = best or ends["final"]
    state, number = (orders.BEST, best["round"]) if best else (orders.LAST, played)
    return Crossed(state, number, found["sites"], _why(found))


def table_of_models(dispatch: Dispatch, crossed: Crossed) -> dict[str, Any] | None:
    """Return ``cross_site`` of results.json, of whole models; None where no task has two sites."""
    by_task = _by_task(dispatch, dispatch.roster.everyone)
    if by_task is None:
        return None
    passes = max(len(names) for names in by_task.values())
    dispatch.log(
        f"{WHAT}each site's {crossed.state} model, of the state after round {crossed.round}, on the "
        f"test data of each site of its task, {passes - 1} passes"
    )
    members = dispatch.roster.everyone
    table = CrossSite(OF_MODELS, members, crossed.state, crossed.round)
    for name in members:
        if name in crossed.own:
            table.values[name] = {name: _own(crossed.own[name])}
        else:
            why = crossed.reasons.get(name, "it took no part in the rounds")
            table.left_out[name] = f"it has no {crossed.state} model that was measured there: {why}"
    # The sites read the models from the disk: no layers travel.
    ask = replace(last_ask(dispatch, kinds.EVALUATE, layers={}), keep=crossed.state)
    for shift in range(1, passes):
        pairs = _partners(by_task, shift).items()
        table.measure(dispatch, ask, {data: model for data, model in pairs if model in crossed.own})
    found = table.to_dict(by_task)
    dispatch.log(cross_site_tables(found, {}))
    return found


def table_of_updates(
    dispatch: Dispatch, ask: Ask, final: Mapping[str, Any], played: int
) -> dict[str, Any] | None:
    """Return ``cross_site`` of results.json, of updates; None where no task has two sites.

    Parameters
    ----------
    dispatch : Dispatch
        The way to the sites.
    ask : Ask
        The evaluation whose results ``final`` has.
    final : mapping
        ``final`` of results.json: what the last state is worth at each site.
    played : int
        How many rounds the run played.
    """
    by_task = _by_task(dispatch, dispatch.roster.members)
    if by_task is None:
        return None
    found = measure_updates(dispatch, ask, by_task, played)
    dispatch.log(cross_site_tables(found, final))
    return found


def measure_updates(
    dispatch: Dispatch, ask: Ask, by_task: Mapping[str, list[str]], played: int
) -> dict[str, Any]:
    """Return the table of what sites exchange; ``by_task`` are the sites of each task.

    A site's layers are asked for only where it measures for the table, and go only to sites that do.
    One site's layers are in memory at a time.
    """
    table = CrossSite(OF_UPDATES, dispatch.roster.members, orders.LAST, played)
    for task, names in sorted(by_task.items()):
        without = [n for n in names if not _layer_keys(dispatch, table.members[n].variant)]
        table.left_out |= dict.fromkeys(without, "its model exchanges no layers")
        names = [name for name in names if name not in without]
        if not names:
            continue
        willing = _willing(dispatch, ask, table, names)
        dispatch.log(
            f"{WHAT}{task}: {len(willing)} of {len(names)} sites train once more, and measure the "
            "layers of one another"
        )
        for name in willing if len(willing) > 1 else ():
            states = _trained(dispatch, ask, table, table.members[name])
            if states is not None:
                every = dict.fromkeys(willing, name)
                table.measure(dispatch, replace(ask, states=states), every)
    return table.to_dict(by_task)


def _willing(dispatch: Dispatch, ask: Ask, table: CrossSite, names: Iterable[str]) -> list[str]:
    """Return the sites that allow the table; each is asked to measure what it has measured already."""
    asked = [table.members[name] for name in names]
    each = replace(ask, of={name: name for name in names})
    reports, record = ask_reports(dispatch, each, asked, answers.read_round_report, what=WHAT)
    table.left_out |= _reasons(record)
    return list(reports)


def _trained(
    dispatch: Dispatch, ask: Ask, table: CrossSite, member: Member
) -> dict[str, Mapping[str, Tensor]] | None:
    """Return by scope key what a site made of the last state; None, with a note, if it did not.

    What is no layer is as the server has it.
    """
    trained: dict[str, Mapping[str, Tensor]] = {}
    ask, state = replace(ask, kind=kinds.CROSS), dispatch.state
    keys = _layer_keys(dispatch, member.variant)
    references = {
        group: Reference(EXACT, state.states[key], state.states[key]) for group, key in keys.items()
    }

    def take(asked: Member, reply: Message) -> None:
        partition = state.partitions[asked.variant]
        within = ask.seconds + TTL_MARGIN
        update = checked_update(
            reply, asked, ask.number, partition, state.method, references, within, keys
        )
        trained.update({key: each.tensors for key, each in update.contributions.items()})

    _, record = ask_reports(
        dispatch, ask, [member], answers.read_round_report, what=WHAT, take=take
    )
    table.left_out |= _reasons(record)
    if not trained:
        return None
    return {
        key: trained.get(key, state.states[key])
        for key in state.scope_keys(member.variant).values()
    }


def _layer_keys(dispatch: Dispatch, variant: str) -> dict[str, str]:
    """Return the scope key of each exchanged group of layers, for sites of a variant."""
    groups = dispatch.state.partitions[variant].groups
    keys = dispatch.state.leaving_keys(variant)
    return {group: key for group, key in keys.items() if not groups[group].knowledge}


def cross_site_tables(cross: Mapping[str, Any], final: Mapping[str, Any]) -> str:
    """Return a table for each task: a row for each model, a column for each site's test data.

    Of updates, the first row is what the last state is worth there.
    """
    texts = []
    of_updates = cross["of"] == OF_UPDATES
    for task, entry in cross["tasks"].items():
        models, leading = entry["models"], measures_of(entry).leading
        word = WORDS[leading]
        table = Table(title=f"{task}: {word} on the test data of")
        table.add_column("layers of" if of_updates else "model of")
        for site in models:
            table.add_column(site, justify="right")
        rows = dict(models)
        if of_updates:
            rows = {LAST_STATE: final["sites"], **models}
        for model, on in rows.items():
            values = [on.get(site, {}).get(leading) for site in models]
            table.add_row(model, *(value_words(entry, leading, each) for each in values))
        texts.append(rendered(table))
    return "".join(texts)


def _by_task(dispatch: Dispatch, members: Mapping[str, Member]) -> dict[str, list[str]] | None:
    """Return the sites of each task; None, and a line in the log, where no task has two."""
    by_task: dict[str, list[str]] = {}
    for name, member in sorted(members.items()):
        by_task.setdefault(member.task, []).append(name)
    if max((len(names) for names in by_task.values()), default=0) < 2:
        dispatch.log(f"{WHAT}no task has two sites")
        return None
    return by_task


def _own(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return the measures of an entry of results.json."""
    names = (*measures_of(entry).of, "examples", "by_output")
    return {name: entry[name] for name in names if name in entry}


def _why(stage: Mapping[str, Any]) -> dict[str, str]:
    """Return the sites that are missing in a stage of results.json, and why."""
    return {
        site: why for each in ("refused", "late", "absent") for site, why in stage[each].items()
    }


def _partners(by_task: Mapping[str, list[str]], shift: int) -> dict[str, str]:
    """Return whose model each site measures in a pass: of the site ``shift`` places further on."""
    return {
        name: names[(place + shift) % len(names)]
        for names in by_task.values()
        if shift < len(names)
        for place, name in enumerate(names)
    }


def _reasons(record: RoundRecord) -> dict[str, str]:
    """Return who gave no report, and why."""
    return {name: why for reasons in missing(record).values() for name, why in reasons.items()}
