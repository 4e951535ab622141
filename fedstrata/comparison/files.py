"""comparison.md and comparison.json: the comparison of runs, for people and for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from fedstrata.comparison import tables
from fedstrata.comparison.comparable import check_comparable, sets_of
from fedstrata.comparison.rows import Part, Targets, compared
from fedstrata.runs.results import Results
from fedstrata.support.durable import replacing_private
from fedstrata.support.errors import UserError

MARKDOWN, JSON = "comparison.md", "comparison.json"
NOT_ENDED = "the run has not ended: results.json has no final figures"


class Comparison(msgspec.Struct, frozen=True):
    """Runs compared: a part for each set of runs on the same data.

    Parameters
    ----------
    parts : list of Part
        One, unless the runs are on several sets of data.
    left_out : dict of str to str
        Runs without figures, and why.
    """

    parts: list[Part]
    left_out: dict[str, str]


def compare(
    runs: Sequence[Results],
    targets: Targets | None = None,
    *,
    apart: bool = False,
    left_out: Mapping[str, str] | None = None,
) -> Comparison:
    """Return the comparison of runs.

    Parameters
    ----------
    runs : sequence of Results
        Those that have not ended are left out, and named.
    targets : mapping of str to float, optional
        See `compared`.
    apart : bool
        Whether runs on other data are compared in parts, or are a mistake.
    left_out : mapping of str to str, optional
        Runs that cannot be read, and why.

    Raises
    ------
    UserError
        No run has ended, or two cannot be paired.
    """
    missing = dict(left_out or {}) | {run.run: NOT_ENDED for run in runs if run.final is None}
    ended = named_apart([run for run in runs if run.final is not None])
    if not ended:
        raise UserError("there is nothing to compare: no run has ended")
    if not apart:
        check_comparable(ended)
    if targets:
        _check_targets(targets, ended)
    used = _configured(ended) if targets is None else targets
    return Comparison([compared(each, used) for each in sets_of(ended)], missing)


def named_apart(runs: Sequence[Results]) -> list[Results]:
    """Return runs of which no two have one name: a folder's copy has its name in another place."""
    count: dict[str, int] = {}
    found = []
    for run in runs:
        count[run.run] = count.get(run.run, 0) + 1
        again = count[run.run]
        name = run.run if again == 1 else f"{run.run} ({again})"
        found.append(msgspec.structs.replace(run, run=name))
    return found


def to_json(comparison: Comparison) -> str:
    """Return a comparison as JSON."""
    return msgspec.json.format(msgspec.json.encode(comparison), indent=1).decode() + "\n"


def to_markdown(comparison: Comparison, *, best_on_test: bool = False) -> str:
    """Return a comparison as Markdown."""
    several = len(comparison.parts) > 1
    text = "# Comparison\n"
    for number, part in enumerate(comparison.parts, start=1):
        heading = f"\n## {part_title(number, part)}\n" if several else ""
        text += f"{heading}\n{tables.markdown(part, best_on_test=best_on_test)}"
    if comparison.left_out:
        text += "\n".join(["", *(f"- {line}" for line in left_out_lines(comparison)), ""])
    return text


def part_title(number: int, part: Part) -> str:
    """Return what a part is called where there are several: they are on other data."""
    return f"data {number}: {len(part.results)} runs, paired with no other part"


def left_out_lines(comparison: Comparison) -> list[str]:
    """Return a line for each run without figures."""
    return [f"left out: {name}: {why}" for name, why in comparison.left_out.items()]


def to_plain(comparison: Comparison, *, best_on_test: bool = False) -> str:
    """Return a comparison as plain text."""
    texts = []
    for number, part in enumerate(comparison.parts, start=1):
        texts += [part_title(number, part)] if len(comparison.parts) > 1 else []
        texts.append(tables.plain(part, best_on_test=best_on_test))
    return "\n".join([*texts, *left_out_lines(comparison)])


def write_comparison(
    comparison: Comparison, folder: Path, *, best_on_test: bool = False
) -> tuple[Path, Path]:
    """Write both files into a folder, each whole or not at all; return where they are.

    Raises
    ------
    UserError
        They cannot be written.
    """
    written = {
        MARKDOWN: to_markdown(comparison, best_on_test=best_on_test),
        JSON: to_json(comparison),
    }
    for name, text in written.items():
        try:
            with replacing_private(folder / name) as unfinished:
                unfinished.write_text(text, encoding="utf-8")
        except OSError as error:
            raise UserError(f"{folder / name} cannot be written: {error.strerror}") from None
    return folder / MARKDOWN, folder / JSON


def _check_targets(targets: Targets, runs: Sequence[Results]) -> None:
    tasks = sorted({site.task for run in runs for site in run.sites.values()})
    for task in targets:
        if task and task not in tasks:
            raise UserError(
                f"--target {task}=...: there is no such task; there is {', '.join(tasks)}"
            )


def _configured(runs: Sequence[Results]) -> Targets:
    """Return ``compare.target`` where all runs have one and the same."""
    found = {run.option("compare.target") for run in runs}
    target = found.pop() if len(found) == 1 else None
    return {"": float(target)} if isinstance(target, int | float) else {}
