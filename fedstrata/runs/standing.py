"""How a run stands, as plain values that every view shows: tasks with their trend, sites, bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedstrata.protocol.measure_words import (
    WORDS,
    compared_words,
    gain_words,
    kind_of,
    measures_of,
    value_words,
)
from fedstrata.protocol.measures import MEASURES
from fedstrata.runs.folder import RunView

GOOD = ("trained", "answered")
BARS = "▁▂▃▄▅▆▇█"
PLAIN_BARS = "_.-=+*#@"


@dataclass(frozen=True)
class TaskStanding:
    """One task.

    Parameters
    ----------
    task : str
        Its name.
    measure : str
        The leading measure, in words.
    value : str
        What it was last.
    values : tuple of float
        What it was in each round that has one.
    gain : str
        By how much it is better than the sites alone, or "-" where that is not known.
    worst : str
        The site with the worst value, and that; "" where it is not known.
    """

    task: str
    measure: str
    value: str
    values: tuple[float, ...]
    gain: str
    worst: str


def tasks_of(
    results: Mapping[str, Any] | None, alone: Mapping[str, float] | None = None
) -> list[TaskStanding]:
    """Return how each task stands: after the last round, or at the end of the run.

    ``alone`` is what sites reach alone, as far as it is known while the rounds go on.
    """
    if results is None:
        return []
    rounds = [_mapping(record.get("tasks")) for record in results["rounds"]]
    final = _mapping(_mapping(results.get("final")).get("tasks"))
    names = sorted({name for record in rounds for name in record} | final.keys())
    found = []
    for name in names:
        rows = [record[name] for record in (*rounds, final) if _readable(record.get(name))]
        if rows:
            found.append(_task(name, rows, _so_far(results["rounds"], name, alone or {})))
    return found


def _so_far(rounds: Sequence[Any], task: str, alone: Mapping[str, float]) -> str:
    """Return the gain over alone in the last round in which sites of a task were measured."""
    for record in reversed(rounds):
        sites = {
            name: site
            for name, site in _mapping(record.get("sites")).items()
            if _readable(site)
            and site.get("task") == task
            and _number(site.get("examples")) is not None
            and _number(site.get(measures_of(site).leading)) is not None
        }
        if sites:
            return compared_words(sites, alone)
    return "-"


def _task(name: str, rows: Sequence[Mapping[str, Any]], so_far: str) -> TaskStanding:
    row = rows[-1]
    measures = measures_of(row)
    leading = measures.leading
    values = tuple(value for each in rows if (value := _number(each.get(leading))) is not None)
    alone = _number(row.get(f"alone_{leading}"))
    gain = _number(row.get("gain_over_alone"))
    if gain is None:
        gain = measures.gain(values[-1] if values else None, alone)
    worst = _mapping(row.get("worst"))
    lowest = _number(worst.get(leading))
    return TaskStanding(
        task=name,
        measure=WORDS[leading],
        value=value_words(row, leading, values[-1] if values else None),
        values=values,
        gain=so_far if alone is None else gain_words(row, gain),
        worst="" if lowest is None else f"{worst.get('site')} {value_words(row, leading, lowest)}",
    )


def trend(values: Sequence[float], bars: str = BARS, most: int = 20) -> str:
    """Return the last values as a row of bars, the lowest and the highest as the first and last."""
    shown = list(values)[-most:]
    low, high = min(shown, default=0.0), max(shown, default=0.0)
    if high == low:
        return bars[0] * len(shown)
    return "".join(bars[round((v - low) / (high - low) * (len(bars) - 1))] for v in shown)


def sites_line(run: RunView) -> str:
    """Return how many sites are in which state: ``8 trained, 1 late``."""
    states = Counter(site.state for site in run.progress.sites.values()) if run.progress else {}
    return ", ".join(f"{count} {state}" for state, count in sorted(states.items()))


def missing_sites(run: RunView) -> list[str]:
    """Return a line for each site that is late, refused, absent, closed or waits for approval."""
    sites = run.progress.sites if run.progress else {}
    fine = (*GOOD, "waiting", "working")
    return [
        f"{name}: {site.state}" + (f": {site.reason}" if site.reason else "")
        for name, site in sorted(sites.items())
        if site.state not in fine
    ]


def result_words(run: RunView) -> str:
    """Return what came out of a run, on one line; "" where nothing did yet."""
    parts = [
        f"{task.task}: {task.measure} {task.value}"
        + (f" ({task.gain} over alone)" if task.gain != "-" else "")
        for task in tasks_of(run.results, alone_of(run))
    ]
    return "; ".join(parts)


def alone_of(run: RunView) -> Mapping[str, float]:
    """Return what sites reach alone, as far as it is known while the rounds go on."""
    return run.progress.alone if run.progress is not None else {}


def duration_words(seconds: float) -> str:
    """Return a time as ``45 s``, ``3 min 20 s`` or ``2 h 5 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def size_words(count: int) -> str:
    """Return bytes as ``12.3 MB``."""
    return f"{count / 1e6:.1f} MB"


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _readable(row: object) -> bool:
    return isinstance(row, dict) and kind_of(row) in MEASURES
