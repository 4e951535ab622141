"""What came of a run, at a glance: alone, federated and in one place by task, who gained, who lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedstrata.protocol.measure_words import (
    BASELINES,
    WORDS,
    gain_words,
    kind_of,
    measures_of,
    value_words,
)
from fedstrata.protocol.task_kinds import CLASSES, LABELS
from server_app import measure_words
from server_app.measure_words import Row
from server_app.rounds.records import baseline_name, mean_of_known, weighted_mean
from server_app.tables import MOST_ROWS

WIDE = 40  # characters of the longest bar
NAMED = 5  # sites that a line names
_OTHERS = {  # what a bar is of, and how the keys of results.json begin
    "alone": "alone_",
    "federated": "",
    "in one place": "pooled_",
}
BELOW_ALONE = (
    "try fewer common layers (groups.common), BatchNorm of each site's own (add 'type:BatchNorm2d' "
    "to groups.personal), or fine-tuning at the end (deployment.epochs=2)"
)
BELOW_GUESS = (
    "try more rounds (strategy.rounds), more examples, or train.class_weights=balanced; the "
    "balanced accuracy says whether anything was learned"
)


def outcome(final: Mapping[str, Any]) -> str:
    """Return the end of a run as text: bars by task, means, who gained and lost, what to try.

    Parameters
    ----------
    final : mapping
        ``final`` of results.json.
    """
    sites: Mapping[str, Row] = final["sites"]
    if not sites:
        return "no site answered the final evaluation"
    lines = ["On the test data, by task (means over its sites, weighted by test examples)", ""]
    for task, row in list(final["tasks"].items())[:MOST_ROWS]:
        own = [site for site in sites.values() if site["task"] == task]
        lines += [*_picture(task, row, own), ""]
    if (more := len(final["tasks"]) - MOST_ROWS) > 0:
        lines += [f"{more} more tasks: results.json", ""]
    lines += _means(final)
    lines += gains(sites)
    return "\n".join([*lines, *advice(sites)])


def _picture(task: str, row: Row, sites: Sequence[Row]) -> list[str]:
    """Return a bar for each way in which a task's model was had."""
    compared = [{**site, "gain": measure_words.gain_over_alone(site)} for site in sites]
    gain = weighted_mean(compared, "gain")  # of the sites that were trained alone
    measures = measures_of(row)
    name = measures.leading
    values: dict[str, float | None] = {
        BASELINES[kind_of(row)]: row[baseline_name(row)],
        **{what: row.get(f"{begin}{name}") for what, begin in _OTHERS.items()},
    }
    known = {what: value for what, value in values.items() if value is not None}
    # A share is drawn as one of all; an error beside the largest.
    whole = 1.0 if kind_of(row) in (CLASSES, LABELS) else max(known.values()) or 1.0
    better = "" if not measures.lower_is_better else ", lower is better"
    count = row["sites"]
    lines = [f"{task}: {WORDS[name]}, {count} site{'s'[: count != 1]}{better}"]
    for what, value in known.items():
        bar = "#" * round(WIDE * max(0.0, min(value / whole, 1.0)))
        shown = value_words(row, name, value)
        more = ""
        if what == "federated" and gain is not None:
            more = f"  {gain_words(row, gain)} against alone"
        lines.append(f"  {what:<14} {bar:<{WIDE}} {shown:>9}{more}")
    return lines


def _means(final: Mapping[str, Any]) -> list[str]:
    """Return the means over all sites of classes, each site alike and by test examples."""
    lines = []
    every = len(measure_words.of_classes(final["sites"]))
    for kind, means in (
        ("each site alike", final["mean"]),
        ("by test examples", final["weighted_mean"]),
    ):
        shown = [
            f"{what} {100 * value:.2f} %{_of_how_many(means.get(f'{begin}sites', every), every)}"
            for what, begin in ({"majority class": "majority_"} | _OTHERS).items()
            if (value := means[f"{begin}accuracy"]) is not None
        ]
        if shown:
            lines.append(f"mean over the sites, {kind}: {', '.join(shown)}")
    return lines


def _of_how_many(count: int, every: int) -> str:
    return "" if count == every else f" ({count} of {every} sites)"


def gains(sites: Mapping[str, Row]) -> list[str]:
    """Return who is better and worse with the federation than alone; by task for other kinds."""
    others = measure_words.tasks_of_other_kinds(sites)
    groups = {"": measure_words.of_classes(sites), **others}
    return [line for task, own in groups.items() if (line := _gains_of(task, own))]


def _gains_of(task: str, sites: Mapping[str, Row]) -> str:
    by_site = {name: measure_words.gain_over_alone(row) for name, row in sites.items()}
    compared = {name: gain for name, gain in by_site.items() if gain is not None}
    if not compared:
        return ""
    row = next(iter(sites.values()))
    up = [gain for gain in compared.values() if gain > 0]
    down = {name: gain for name, gain in compared.items() if gain < 0}
    mean = gain_words(row, sum(compared.values()) / len(compared))
    text = f"{task}: " if task else ""
    text += f"the federation against alone: {mean} on average; better at {len(up)} of "
    text += f"{len(compared)} sites"
    if up:
        text += f" ({gain_words(row, sum(up) / len(up))})"
    text += f", worse at {len(down)}"
    if down:
        worst = sorted(down, key=lambda name: down[name])
        more = f" and {len(down) - NAMED} more" if len(down) > NAMED else ""
        named = ", ".join(f"{n} {gain_words(row, down[n])}" for n in worst[:NAMED])
        text += f" ({named}{more})"
    if missing := len(sites) - len(compared):
        text += f"; {missing} of {len(sites)} sites were not trained alone"
    return text


def advice(sites: Mapping[str, Row]) -> list[str]:
    """Return a sentence where the federation is below a guess, or below alone for most sites."""
    lines = []
    below = [name for name, row in sites.items() if _below_guess(row)]
    if _guess_is_better(sites):
        what = "majority class" if all(kind_of(r) == CLASSES for r in sites.values()) else "guess"
        lines.append(
            f"the federation is below the {what} at {len(below)} of {len(sites)} sites: {BELOW_GUESS}"
        )
    found = [measure_words.gain_over_alone(row) for row in sites.values()]
    compared = [gain for gain in found if gain is not None]
    worse = sum(gain < 0 for gain in compared)
    if worse > len(compared) / 2:
        lines.append(f"alone is better at {worse} of {len(compared)} sites: {BELOW_ALONE}")
    return lines


def _below_guess(row: Row) -> bool:
    measures = measures_of(row)
    gain = measures.gain(row[measures.leading], row[baseline_name(row)])
    return gain is not None and gain < 0


def _guess_is_better(sites: Mapping[str, Row]) -> bool:
    """Return whether a guess without input is better on average in some task."""
    for task in {str(row["task"]) for row in sites.values()}:
        own = [row for row in sites.values() if row["task"] == task]
        measures = measures_of(own[0])
        mean = mean_of_known(row[measures.leading] for row in own)
        guess = mean_of_known(row[baseline_name(own[0])] for row in own)
        gain = measures.gain(mean, guess) if mean is not None else None
        if gain is not None and gain < 0:
            return True
    return False
