"""Cases measured in turn, several times, and the medians of what was found."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Case = TypeVar("Case", bound=Hashable)
Result = TypeVar("Result")


def in_turn(
    cases: Sequence[Case],
    repeat: int,
    measure: Callable[[Case, int], Result],
    *,
    side_by_side: bool = False,
) -> dict[Case, list[Result]]:
    """Measure every case once, then every case again, ``repeat`` times in all.

    In turn, so that what changes on the machine over time meets all cases alike.

    Parameters
    ----------
    cases : sequence of hashable
        The keys of what is returned.
    repeat : int
        Results of each case.
    measure : callable
        Case and number of the repetition, from 0, to a result.
    side_by_side : bool
        All cases at the same time, each in a thread: quicker, and no figures to keep.
    """
    found: dict[Case, list[Result]] = {case: [] for case in cases}
    for number in range(repeat):
        for case, result in zip(cases, _once(cases, number, measure, side_by_side), strict=True):
            found[case].append(result)
    return found


def _once(
    cases: Sequence[Case],
    number: int,
    measure: Callable[[Case, int], Result],
    side_by_side: bool,
) -> list[Result]:
    if not side_by_side:
        return [measure(case, number) for case in cases]
    with ThreadPoolExecutor(len(cases)) as pool:
        return list(pool.map(measure, cases, [number] * len(cases)))


def median_of(results: Iterable[Result], quantity: Callable[[Result], float]) -> float:
    """Return the median of a quantity of each result; NaN where there is none."""
    values = [quantity(result) for result in results]
    return statistics.median(values) if values else float("nan")


def medians(
    found: Mapping[Case, Iterable[Result]], quantity: Callable[[Result], float]
) -> dict[Case, float]:
    """Return the median of a quantity for each case."""
    return {case: median_of(results, quantity) for case, results in found.items()}
