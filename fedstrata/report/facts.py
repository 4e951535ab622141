"""What a run was and how it went, in sentences and rows, out of its results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from fedstrata.protocol.measure_words import WORDS, gain_text
from fedstrata.protocol.measures import MEASURES
from fedstrata.report.amounts import several
from fedstrata.runs.results import Measured, Results, Round

MOST_PROBLEMS = 200  # rows of the table of what went wrong


def in_words(results: Results) -> list[str]:
    """Return what was run, in sentences."""
    tasks = sorted({site.task for site in results.sites.values()})
    named = f"{several(len(tasks), 'task')} ({_some(tasks)})"
    rounds = results.option("strategy.rounds")
    played = len(results.rounds)
    of = f"{several(played, 'round')} of {rounds}" if rounds != played else several(played, "round")
    words = [
        f"{several(len(results.sites), 'site')} with {named} trained {networks(results)} "
        f"on {results.option('data.name')} for {of}, by the method {results.option('method.name')}.",
        _training(results),
        f"It began from {_start(results)}. The seed is {results.seed}.",
    ]
    if results.stopped:
        words.append(f"It stopped after round {results.stopped.round}: {results.stopped.reason}.")
    elif results.final is None and not standing(results):
        words.append("The run has not ended: the figures are of the last round that was evaluated.")
    return [each for each in words if each]


def networks(results: Results) -> str:
    """Return which networks a run trained: one, or several with the number of their sites."""
    names = Counter(site.model for site in results.sites.values() if site.model)
    if not names:
        return str(results.option("model.name"))
    each = (
        f"{name}: {results.option(f'models.{name}.name')} at {several(count, 'site')}"
        for name, count in sorted(names.items())
    )
    return f"{several(len(names), 'network')} ({'; '.join(each)})"


def standing(results: Results) -> str:
    """Return how a run stands that did not reach its end, and why; "" of any other."""
    ends = {
        "failed": "This run failed",
        "stopped": "This run was stopped",
        "interrupted": "This run broke off: its process ended without a word",
    }
    if results.state not in ends:
        return ""
    why = (
        f": {results.reason.rstrip('.')}"
        if results.state != "interrupted" and results.reason
        else ""
    )
    played, planned = len(results.rounds), results.option("strategy.rounds")
    figures = (
        "The figures are of the state after its last round; what comes after that is not complete."
        if results.final
        else f"The figures are of {several(played, 'complete round')}, of {planned}."
    )
    return f"{ends[results.state]}{why}. {figures}"


def verdict(results: Results) -> list[str]:
    """Return who gained and who lost by the federation, in sentences."""
    if results.final is None:
        return []
    gains = {name: s.gain for name, s in results.final.sites.items() if s.gain is not None}
    if not gains:
        return ["Training alone was not measured, so there is nothing to compare with."]
    better = sum(gain > 0 for gain in gains.values())
    worse = sum(gain < 0 for gain in gains.values())
    equal = len(gains) - better - worse
    said = [
        f"{better} of {several(len(gains), 'site')} {'is' if better == 1 else 'are'} better than "
        f"alone, {worse} {'is' if worse == 1 else 'are'} worse"
        f"{f', {equal} as good' if equal else ''}."
    ]
    for task, row in sorted(results.final.tasks.items()):
        below = row.measures.gain(row.value, row.baseline)
        if below is not None and below < 0:
            said.append(f"{task} is below the guess without input, by {_less(row, below)}.")
    return said


def gains(results: Results) -> list[tuple[str, str, float]]:
    """Return, of each kind of task, the words and figure of its sites' mean gain over alone."""
    found: dict[tuple[str, str], list[float]] = {}
    for site in results.final.sites.values() if results.final else ():
        if site.gain is not None:
            whose = "" if site.kind == "classes" else site.task
            found.setdefault((site.kind, whose), []).append(site.gain)
    rows = []
    units = {site.task: site.unit for site in results.final.sites.values()} if results.final else {}
    for (kind, whose), values in sorted(found.items()):
        mean = sum(values) / len(values)
        words = (
            f"{WORDS[MEASURES[kind].leading]} over alone, mean of {several(len(values), 'site')}"
        )
        text = gain_text(kind, mean, units.get(whose, ""))
        rows.append((f"{whose}: {words}" if whose else words, text, mean))
    return rows


@dataclass(frozen=True)
class Problem:
    """Something that went otherwise, with the rounds in which it did."""

    who: str
    what: str
    rounds: str
    reason: str


def problems(results: Results) -> list[Problem]:
    """Return what was refused, late, absent, kept or limited; equal ones share a row."""
    found: dict[tuple[str, str, str], list[str | int]] = {}
    for record in results.rounds:
        for what, reasons in _reasons(record):
            for who, reason in reasons.items():
                found.setdefault((who, what, reason), []).append(record.round)
    opening = results.rounds[0].opening if results.rounds else None
    ends: list[tuple[str, Any]] = [("at the end", results.final), ("best state", results.best)]
    for when, part in [("before round 1", opening), *ends, ("fine-tuning", results.deployment)]:
        if part is None or (part is results.best and _same_refusals(results)):
            continue
        for what in ("refused", "late", "absent"):
            for who, reason in getattr(part, what).items():
                found.setdefault((who, what, reason), []).append(when)
    if results.cross_site is not None:
        for who, reason in results.cross_site.left_out.items():
            found.setdefault((who, "not in the cross-site table", reason), []).append("at the end")
        for pair in results.cross_site.missing:
            what = f"not measured on the data of {pair.data}"
            found.setdefault((pair.model, what, pair.reason), []).append("cross-site")
    return [
        Problem(who, what, rounds_text(rounds), reason)
        for (who, what, reason), rounds in sorted(found.items(), key=lambda item: item[0])
    ]


def rounds_text(rounds: Sequence[str | int]) -> str:
    """Return rounds as a reader lists them: ``1 to 3, 5, at the end``."""
    numbers = sorted(each for each in rounds if isinstance(each, int))
    spans: list[list[int]] = [numbers[:1]] if numbers else []
    for before, number in pairwise(numbers):
        if number == before + 1:
            spans[-1].append(number)
        else:
            spans.append([number])
    texts = [str(s[0]) if len(s) == 1 else f"{s[0]} to {s[-1]}" for s in spans]
    return ", ".join([*texts, *(each for each in rounds if isinstance(each, str))])


def totals(rounds: Iterable[Round], *, up: bool) -> dict[str, int]:
    """Return the bytes of all rounds by layer group."""
    summed: dict[str, int] = {}
    for record in rounds:
        for group, size in (record.bytes_up if up else record.bytes_down).items():
            summed[group] = summed.get(group, 0) + size
    return dict(sorted(summed.items()))


def labels(runs: Sequence[Results]) -> list[str]:
    """Return a name for each run that no other has."""
    names = [results.run for results in runs]
    return [
        f"{name} ({index + 1})" if names.count(name) > 1 else name
        for index, name in enumerate(names)
    ]


def _training(results: Results) -> str:
    option = results.option
    steps = option("train.steps")
    amount = f"steps: {steps}" if steps else f"epochs: {option('train.epochs')}"
    words = f"In each round a site trains ({amount}) with batches of {option('train.batch_size')}"
    fraction = option("strategy.fraction")
    asked = f", and {fraction} of the sites are asked" if fraction not in (None, 1, 1.0) else ""
    every = results.evaluate_every
    measured = (
        f" The sites measured what they received in rounds 1, {1 + every}, {1 + 2 * every} and so on "
        f"(strategy.evaluate_every={every}), and the last state."
    )
    return f"{words}{asked}.{measured if every > 1 else ''}"


def _start(results: Results) -> str:
    weights = results.weights
    if results.starts:
        each = (f"{start.source} for {name}" for name, start in sorted(results.starts.items()))
        return f"the weights {', '.join(each)}, and random ones for any other network"
    return f"the weights {weights.source}" if weights else "random weights"


def _some(names: Sequence[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"


def _less(row: Measured, gain: float) -> str:
    return gain_text(row.kind, -gain, row.unit).removeprefix("+")


def _reasons(record: Round) -> list[tuple[str, Mapping[str, str]]]:
    return [
        ("refused", record.refused),
        ("late", record.late),
        ("absent", record.absent),
        ("group kept as it was", record.kept),
        ("limited", record.limited),
        ("lost its own layers", record.lost),
        ("suspect", record.suspects),
        ("unauthorized node", record.unauthorized),
    ]


def _same_refusals(results: Results) -> bool:
    one, other = results.final, results.best
    return bool(one and other) and (one.refused, one.late, one.absent) == (  # type: ignore[union-attr]
        other.refused,  # type: ignore[union-attr]
        other.late,  # type: ignore[union-attr]
        other.absent,  # type: ignore[union-attr]
    )
