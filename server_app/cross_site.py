"""Each site's layers on each other site's test data, for sites of one task: measures alone come back.

Of ``models`` it is a site's whole last model. Such models differ in their personal layers alone. In a
simulation these are on the same disk, where the site that measures reads them. In a deployment they
would have to leave their site, so it is refused there.

Of ``updates`` it is what a site exchanges, after it trained the last state once more. Each other site
measures that with its own personal layers. Only sites that allow both take part.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from flwr.app import Message
from rich.table import Table
from torch import Tensor

from fedstrata.protocol import answers, kinds
from fedstrata.protocol.codings import EXACT
from fedstrata.protocol.measure_words import WORDS, measures_of, value_words
from fedstrata.protocol.plan import NO_TABLE, OF_MODELS, OF_UPDATES
from server_app.evaluation import ask_reports, missing
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
    values : dict
        By model and by site whose data it is, the measures.
    missing : list of dict
        Pairs that could not be measured, and why.
    left_out : dict
        Sites that take no part, and why.
    """

    of: str
    members: Mapping[str, Member]
    values: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    missing: list[dict[str, str]] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)

    def measure(self, dispatch: Dispatch, ask: Ask, of: Mapping[str, str]) -> None:
        """Let each site of ``of`` measure the layers of the site that is named there."""
        asked = [self.members[name] for name in of]
        each = replace(ask, of=of, keep="")
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


def cross_site_table(
    dispatch: Dispatch, ask: Ask, final: Mapping[str, Any], of: str
) -> dict[str, Any] | None:
    """Return ``cross_site`` of results.json; None where it is not wanted, or no task has two sites.

    Parameters
    ----------
    dispatch : Dispatch
        The way to the sites.
    ask : Ask
        The evaluation whose results ``final`` has: of which state.
    final : mapping
        ``final`` of results.json: what each site's own model is worth there.
    of : str
        ``none``, ``models`` or ``updates``.
    """
    if of == NO_TABLE:
        return None
    by_task = _by_task(dispatch.roster.members)
    if max((len(names) for names in by_task.values()), default=0) < 2:
        dispatch.log(f"{WHAT}no task has two sites")
        return None
    if of == OF_MODELS:
        found = measure_models(dispatch, ask, final, by_task)
    else:
        found = measure_updates(dispatch, ask, by_task)
    dispatch.log(cross_site_tables(found, final))
    return found


def measure_models(
    dispatch: Dispatch, ask: Ask, final: Mapping[str, Any], by_task: Mapping[str, list[str]]
) -> dict[str, Any]:
    """Return the table of the sites' whole models; ``by_task`` are the sites of each task.

    A site can load the layers of those alone that have its own network.
    """
    members = dispatch.roster.members
    alike: dict[str, list[str]] = {}
    for name, member in sorted(members.items()):
        alike.setdefault(member.variant, []).append(name)
    passes = max(len(names) for names in alike.values())
    of = " with its network" if len(alike) > len(by_task) else ""
    dispatch.log(
        f"{WHAT}each model on the test data of each site of its task{of}, {passes - 1} passes"
    )
    table = CrossSite(OF_MODELS, members)
    for name in final["sites"]:
        table.values[name] = {name: _own(members[name], final)}
    for shift in range(1, passes):
        table.measure(dispatch, ask, _partners(alike, shift))
    return table.to_dict(by_task)


def measure_updates(
    dispatch: Dispatch, ask: Ask, by_task: Mapping[str, list[str]]
) -> dict[str, Any]:
    """Return the table of what sites exchange; ``by_task`` are the sites of each task.

    A site's layers are asked for only where it measures for the table, and go only to sites that do.
    One site's layers are in memory at a time.
    """
    table = CrossSite(OF_UPDATES, dispatch.roster.members)
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
    keys = dispatch.state.scope_keys(variant)
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


def _by_task(members: Mapping[str, Member]) -> dict[str, list[str]]:
    by_task: dict[str, list[str]] = {}
    for name, member in sorted(members.items()):
        by_task.setdefault(member.task, []).append(name)
    return by_task


def _own(member: Member, final: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a site's own model is worth on its test data."""
    site = final["sites"][member.site]
    names = (*measures_of(site).of, "examples", "by_output")
    return {name: site[name] for name in names if name in site}


def _partners(alike: Mapping[str, list[str]], shift: int) -> dict[str, str]:
    """Return whose model each site measures in a pass: of the site ``shift`` places further on."""
    return {
        name: names[(place + shift) % len(names)]
        for names in alike.values()
        if shift < len(names)
        for place, name in enumerate(names)
    }


def _reasons(record: RoundRecord) -> dict[str, str]:
    """Return who gave no report, and why."""
    return {name: why for reasons in missing(record).values() for name, why in reasons.items()}
