"""What the live page shows of a run's folder, as HTML."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import jinja2

from fedstrata.protocol.measure_words import WORDS
from fedstrata.protocol.progress import SiteProgress
from fedstrata.report import curves
from fedstrata.report.page import html_environment
from fedstrata.runs.folder import RunView, read_run
from fedstrata.runs.results import Measured, Results, read_results
from fedstrata.runs.standing import alone_of, tasks_of
from fedstrata.support.errors import UserError

TEMPLATES = Path(__file__).parent / "templates"
MOST_SITES = 120  # on the page; the others are counted
# What needs a person's eye comes first.
_ORDER = (
    "refused",
    "late",
    "absent",
    "waiting for approval",
    "closed",
    "working",
    "answered",
    "waiting",
    "trained",
)


def page(path: Path) -> str:
    """Return the whole page, with what it shows now."""
    return _environment().get_template("watch.html").render(name=path.name, live=fragment(path))


def fragment(path: Path) -> str:
    """Return what the page shows now; of a folder that cannot be read, why."""
    try:
        run = read_run(path)
        results = read_results(path) if run.results is not None else None
    except UserError as error:
        return _environment().get_template("unreadable.html").render(reason=str(error))
    sites: Mapping[str, SiteProgress] = run.progress.sites if run.progress else {}
    shown = sorted(sites.items(), key=lambda item: (_ORDER.index(item[1].state), item[0]))
    counts = Counter(str(site.state) for site in sites.values())
    return (
        _environment()
        .get_template("live.html")
        .render(
            run=run,
            results=results,
            round=_round(run),
            gains={each.task: each.gain for each in tasks_of(run.results, alone_of(run))},
            tasks={} if results is None else dict(sorted(results.tasks.items())),
            sites=sorted(shown[:MOST_SITES]),
            others=max(0, len(shown) - MOST_SITES),
            counts=[(state, counts[state]) for state in reversed(_ORDER) if counts[state]],
        )
    )


def trend(results: Results, task: str) -> float | None:
    """Return by how much the leading measure is better than one measurement before."""
    points = curves.points_of(results, task)
    if len(points) < 2:
        return None
    row: Measured = results.tasks[task]
    return row.measures.gain(points[-1].value, points[-2].value)


def _round(run: RunView) -> int:
    """Return the round that is played or was last."""
    return max(run.round, run.progress.round if run.progress else 0)


@cache
def _environment() -> jinja2.Environment:
    made = html_environment(TEMPLATES)
    made.globals.update(curves=curves, trend=trend, words=WORDS)
    return made
