"""Each site's model on each other site's test data, for sites of one task: measures alone travel.

A model differs from another one of its task in the personal layers alone. In a simulation they are
on the same disk, where the site that measures reads them. In a deployment they would have to leave
their site, so it is refused there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rich.table import Table

from fedstrata.protocol import answers
from fedstrata.protocol.measure_words import WORDS, measures_of, value_words
from server_app.evaluation import ask_reports, missing
from server_app.rounds.dispatch import Ask, Dispatch
from server_app.rounds.records import kind_record, named_measures
from server_app.sites.members import Member
from server_app.tables import rendered


def measure_cross_site(
    dispatch: Dispatch, ask: Ask, final: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Return ``cross_site`` of results.json; None where no task has two sites.

    Parameters
    ----------
    dispatch : Dispatch
        The way to the sites.
    ask : Ask
        The evaluation whose results ``final`` has: of which state.
    final : mapping
        ``final`` of results.json: what each site's own model is worth there.
    """
    members = dispatch.roster.members
    by_task: dict[str, list[str]] = {}
    for name, member in sorted(members.items()):
        by_task.setdefault(member.task, []).append(name)
    passes = max((len(names) for names in by_task.values()), default=0)
    if passes < 2:
        dispatch.log("cross-site: no task has two sites")
        return None
    dispatch.log(
        f"cross-site: each model on the test data of each site of its task, {passes - 1} passes"
    )
    tables = {
        task: {
            model: {model: _own(members[model], final)} if model in final["sites"] else {}
            for model in names
        }
        for task, names in sorted(by_task.items())
    }
    gaps: list[dict[str, str]] = []
    for shift in range(1, passes):
        of = _partners(by_task, shift)
        asked = [members[name] for name in of]
        each = replace(ask, of=of, keep="")
        reports, record = ask_reports(
            dispatch, each, asked, answers.read_round_report, what="cross-site: "
        )
        for name, report in reports.items():
            found = named_measures(members[name], report.metrics["test"])
            tables[members[name].task][of[name]][name] = found
        gaps += [
            {"model": of[name], "data": name, "reason": reason}
            for reasons in missing(record).values()
            for name, reason in reasons.items()
        ]
    found = {"tasks": _by_model(tables, members), "missing": gaps}
    dispatch.log(cross_site_tables(found))
    return found


def _by_model(
    tables: Mapping[str, Mapping[str, Mapping[str, Any]]], members: Mapping[str, Member]
) -> dict[str, dict[str, Any]]:
    """Return the kind of each task, and its models, each with the sites in order."""
    return {
        task: {
            **kind_record(members[next(iter(models))]),
            "models": {model: dict(sorted(on.items())) for model, on in models.items()},
        }
        for task, models in tables.items()
    }


def cross_site_tables(cross: Mapping[str, Any]) -> str:
    """Return a table for each task: a row for each model, a column for each site's test data."""
    texts = []
    for task, entry in cross["tasks"].items():
        models, leading = entry["models"], measures_of(entry).leading
        word = WORDS[leading]
        table = Table(title=f"{task}: {word} on the test data of")
        table.add_column("model of")
        for site in models:
            table.add_column(site, justify="right")
        for model, on in models.items():
            values = [on.get(site, {}).get(leading) for site in models]
            table.add_row(model, *(value_words(entry, leading, each) for each in values))
        texts.append(rendered(table))
    return "".join(texts)


def _own(member: Member, final: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a site's own model is worth on its test data."""
    site = final["sites"][member.site]
    names = (*measures_of(site).of, "examples", "by_output")
    return {name: site[name] for name in names if name in site}


def _partners(by_task: Mapping[str, list[str]], shift: int) -> dict[str, str]:
    """Return whose model each site measures in a pass: of the site ``shift`` places further on."""
    return {
        name: names[(place + shift) % len(names)]
        for names in by_task.values()
        if shift < len(names)
        for place, name in enumerate(names)
    }
