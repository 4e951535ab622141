"""What a run says to people: a line per round, tables and sentences at the end."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.table import Table

from fedstrata.protocol.measure_words import WORDS, gain_words, measures_of, value_words
from server_app import measure_words
from server_app.class_tables import class_table
from server_app.outcome import outcome
from server_app.rounds.records import MISSED, NOT_ASKED, TOOK_PART, RoundRecord, mean_of_known
from server_app.tables import MEGABYTE, rendered, worst_sites

MUCH_OWED = 0.2  # of the change since the start; see docs/compression.md
PACKAGES = ("fedstrata", "flwr", "torch", "torchvision", "numpy", "safetensors")


def versions() -> dict[str, str]:
    """Return the versions of what results depend on."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def round_line(record: RoundRecord, rounds: int, alone: Mapping[str, float] | None = None) -> str:
    """Return one line: who took part, bytes, time, and the metrics of the model as received.

    With ``alone``, what sites reach alone, also how they compare with it.
    """
    down, up = sum(record.bytes_down.values()), sum(record.bytes_up.values())
    asked = len({*record.participants, *record.refused, *record.late, *record.absent})
    parts = [
        f"round {record.round}/{rounds}: {len(record.participants)} of {asked} sites",
        f"{record.seconds:.1f} s",
        f"{down / MEGABYTE:.1f} MB down, {up / MEGABYTE:.1f} MB up",
    ]
    if received := measure_words.received_words(record.sites, alone):
        parts.append(f"as received: {received}")
    elif not record.evaluated:
        parts.append("not evaluated")
    lines = [", ".join(parts)]
    for what in ("refused", "late", "absent", "kept", "unauthorized"):
        for name, reason in getattr(record, what).items():
            lines.append(f"  {what}: {name}: {reason}")
    return "\n".join(lines)


def participation_table(
    participation: Mapping[str, Sequence[str]], rounds: Sequence[Mapping[str, Any]]
) -> str:
    """Return the sites that missed a round they were asked for, how often and why; or ""."""
    table = Table(title="Sites that missed a round")
    table.add_column("site")
    table.add_column("took part", justify="right")
    table.add_column("missed")
    for site, did in participation.items():
        reasons: dict[str, list[int]] = {}
        for record, what in zip(rounds, did, strict=True):
            if what in MISSED:
                reasons.setdefault(f"{what}: {record[what][site]}", []).append(record["round"])
        if reasons:
            asked = sum(what != NOT_ASKED for what in did)
            missed = "; ".join(f"{_spans(numbers)} {why}" for why, numbers in reasons.items())
            table.add_row(site, f"{did.count(TOOK_PART)} of {asked}", missed)
    return rendered(table) if table.row_count else ""


def _spans(numbers: Sequence[int]) -> str:
    """Return ascending numbers as ``round 2`` or ``rounds 1-3, 7``."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and spans[-1][1] == number - 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    listed = ", ".join(f"{a}-{b}" if b > a else str(a) for a, b in spans)
    return f"round{'s' if len(numbers) > 1 else ''} {listed}"


def closing(results: Mapping[str, Any]) -> list[str]:
    """Return the texts at the end of a run: the sites, what came of it, who gained and who lost."""
    texts = [final_table(results["final"]), outcome(results["final"])]
    if classes := class_table(results["final"]["tasks"]):
        texts.append(classes)
    if missed := participation_table(results["participation"], results["rounds"]):
        texts.append(missed)
    if results["deployment"] is not None:
        texts += [
            deployment_tables(results["deployment"]),
            deployment_verdict(results["deployment"]),
        ]
    return texts


def owed_line(rounds: Sequence[Mapping[str, Any]]) -> str:
    """Return a warning where coding still owes much of the updates after the last round, or ""."""
    last = rounds[-1]["sites"] if rounds else {}
    owed = [site["owed"] for site in last.values() if site.get("owed") is not None]
    mean = sum(owed) / len(owed) if owed else 0.0
    if mean < MUCH_OWED:
        return ""
    return (
        f"coding: after the last round the sites still owe {mean:.0%} of what changed since the start "
        "(error feedback, mean over the sites); more rounds would send it (strategy.rounds), or a "
        "coding that loses less"
    )


def whereabouts(path: Path, fetch: str, host: str, user: str) -> list[str]:
    """Return where results.json is in a deployment, and the command that fetches it.

    Parameters
    ----------
    path : Path
        Of results.json, on the machine of the ServerApp.
    fetch : str
        A command, in which ``{path}``, ``{host}`` and ``{run}`` stand for the file, the machine and
        the run's name.
    host, user : str
        The machine and the user of the ServerApp.
    """
    command = fetch
    for name, value in {"path": path, "host": host, "run": path.parent.name}.items():
        command = command.replace(f"{{{name}}}", str(value))
    return [f"results: {path} on {host}, of user {user}", f"fetch them: {command}"]


def final_table(final: Mapping[str, Any]) -> str:
    """Return the table of the sites at the end, beside a guess, the sites alone and in one place."""
    sites = _with_gains(final["sites"])
    table = _mixed_table if measure_words.tasks_of_other_kinds(sites) else _final_table
    return rendered(table(sites))


def _with_gains(sites: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the sites with ``gain``, the leading measure over that alone, or None."""
    return {
        name: {**site, "gain": measure_words.gain_over_alone(site)} for name, site in sites.items()
    }


def _mixed_table(rows: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return a table in words, for tasks of several kinds."""
    whose, rows = worst_sites(rows, "gain")
    table = Table(title=f"On the test data, {whose}, with 95 % intervals")
    headings = ("site", "task", "leading measure", "besides", "without input", "alone", "gain")
    for heading in headings:
        table.add_column(heading)
    for name, row in rows.items():
        leading = measures_of(row).leading
        table.add_row(
            name,
            row["task"],
            measure_words.leading(row),
            measure_words.besides(row),
            measure_words.baseline(row),
            value_words(row, leading, measure_words.alone(row)),
            gain_words(row, row["gain"]),
        )
    return table


def deployment_tables(deployment: Mapping[str, Any]) -> str:
    """Return the tables of the fine-tuning: the sites of the rounds, and the newcomers if any."""
    tables = {"sites": "Fine-tuned by each site itself, on the test data", "newcomers": "Newcomers"}
    return "".join(
        rendered(_deployment_table(title, deployment[kind], deployment["mean"][kind]))
        for kind, title in tables.items()
        if deployment[kind]
    )


def deployment_verdict(deployment: Mapping[str, Any]) -> str:
    """Return sentences that compare the fine-tuned model with the sites alone, whoever wins."""
    lines = []
    for kind, what in (("sites", "fine-tuned"), ("newcomers", "newcomers, fine-tuned")):
        others = measure_words.tasks_of_other_kinds(deployment[kind])
        if of_classes := measure_words.of_classes(deployment[kind]):
            lines.append(_deployed_against_alone(what, of_classes, deployment["mean"][kind]))
        lines += [_deployed_task(what, task, entries) for task, entries in others.items()]
    return "\n".join(lines) or "no site answered the fine-tuning"


def _deployed_against_alone(
    what: str, entries: Mapping[str, Mapping[str, Any]], means: Mapping[str, float | None]
) -> str:
    before, after = means["before"], means["after"]
    assert before is not None
    assert after is not None
    text = f"{what}: mean {100 * before:.2f} % before, {100 * after:.2f} % after"
    if idle := [name for name, entry in entries.items() if not entry["tuned"]]:
        text += f"; nothing to tune in deployment.groups at {', '.join(idle)}"
    compared = {n: e["over_alone"] for n, e in entries.items() if e["over_alone"] is not None}
    if not compared:
        return text + "; not compared with the sites alone (baselines.alone=false, or no answer)"
    losing = [name for name, over in compared.items() if over < 0]
    text += f"; {100 * sum(compared.values()) / len(compared):+.2f} points over the sites alone; "
    if losing:
        return text + f"the federation loses, even fine-tuned, at {', '.join(losing)}"
    return text + f"alone is better at none of the {len(compared)} compared"


def _deployed_task(what: str, task: str, entries: Mapping[str, Mapping[str, Any]]) -> str:
    """Return how the sites of one task are after fine-tuning, by the measure of its kind."""
    row = next(iter(entries.values()))
    leading = measures_of(row).leading
    means = {
        when: mean_of_known(entry[when][leading] for entry in entries.values())
        for when in ("before", "after")
    }
    before, after = (value_words(row, leading, each) for each in means.values())
    text = f"{what}, {task}: mean {WORDS[leading]} {before} before, {after} after"
    if (over := mean_of_known(entry["over_alone"] for entry in entries.values())) is None:
        return text
    losing = [n for n, e in entries.items() if e["over_alone"] is not None and e["over_alone"] < 0]
    text += f"; {gain_words(row, over)} over the sites alone"
    return text + (f"; alone is better at {', '.join(losing)}" if losing else "")


def _deployment_table(
    title: str, entries: Mapping[str, Mapping[str, Any]], means: Mapping[str, float | None]
) -> Table:
    whose, entries = worst_sites(entries, "over_alone")
    table = Table(title=title if whose == "per site" else f"{title}, {whose}")
    if measure_words.tasks_of_other_kinds(entries):
        return _mixed_deployment_table(table, entries)
    headings = ("before", "after", "gain", "majority class", "alone", "after - alone")
    for heading in ("site", "task"):
        table.add_column(heading)
    for heading in headings:
        table.add_column(heading, justify="right")
    for name, entry in entries.items():
        accuracies = {k: entry[k] and entry[k]["accuracy"] for k in ("before", "after", "alone")}
        table.add_row(name, entry["task"], *_deployment_cells({**entry, **accuracies}))
    table.add_section()
    table.add_row("mean", "", *_deployment_cells(means))
    return table


def _mixed_deployment_table(table: Table, entries: Mapping[str, Mapping[str, Any]]) -> Table:
    for heading in ("site", "task", "before", "after", "gain", "without input", "after - alone"):
        table.add_column(heading)
    for name, entry in entries.items():
        before, after = ({**entry, **entry[when]} for when in ("before", "after"))
        table.add_row(
            name,
            entry["task"],
            measure_words.leading(before),
            measure_words.leading(after),
            gain_words(entry, entry["gain"]),
            measure_words.baseline(entry),
            gain_words(entry, entry["over_alone"]),
        )
    return table


def _deployment_cells(row: Mapping[str, Any]) -> list[str]:
    return [
        _percent(row["before"]),
        _percent(row["after"]),
        _points(row["gain"]),
        _percent(row["majority_accuracy"]),
        _percent(row["alone"]),
        _points(row["over_alone"]),
    ]


def _final_table(rows: Mapping[str, Mapping[str, Any]]) -> Table:
    whose, rows = worst_sites(rows, "gain")
    table = Table(title=f"On the test data, {whose}")
    for heading in ("site", "task"):
        table.add_column(heading)
    for heading in ("accuracy", "balanced", "AUROC", "majority", "alone", "gain", "in one place"):
        table.add_column(heading, justify="right")
    for name, row in rows.items():
        table.add_row(
            name,
            row["task"],
            _percent(row["accuracy"]),
            _percent(row["balanced_accuracy"]),
            "-" if row["auroc"] is None else f"{row['auroc']:.3f}",
            _percent(row["majority_accuracy"]),
            _percent(row.get("alone_accuracy")),
            _points(row["gain"]),
            _percent(row.get("pooled_accuracy")),
        )
    return table


def _points(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:+.2f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f} %"
