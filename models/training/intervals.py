"""How sure a measure is: an interval by bootstrap over the examples that it was measured on."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from models.training.rankings import Numbers

RESAMPLES, LEVEL = 1000, 0.95
_AT_ONCE = 2_000_000  # weights in memory

Interval = tuple[float, float]


def bootstrap(
    measured: Callable[[Numbers], Numbers], examples: int, generator: np.random.Generator
) -> Interval | None:
    """Return the interval in which `LEVEL` of `RESAMPLES` resamples of the examples lie, or None.

    It is the percentile interval (Efron 1979). Each resample has as many examples, drawn with
    repetition.

    Parameters
    ----------
    measured : callable
        From how often each example counts, float64 ``(b, examples)``, to the measure ``(b,)``;
        NaN where a resample has none.
    examples : int
        How many there are.
    generator : numpy.random.Generator
        Draws the resamples.
    """
    at_once = max(min(_AT_ONCE // max(examples, 1), RESAMPLES), 1)
    found: list[Numbers] = []
    for start in range(0, RESAMPLES, at_once):
        count = min(at_once, RESAMPLES - start)
        weights = np.stack([_drawn(examples, generator) for _ in range(count)])
        found.append(measured(weights))
    return middle(np.concatenate(found))


def bootstrap_of_share(hits: int, examples: int, generator: np.random.Generator) -> Interval | None:
    """Return the interval of a share of the examples, as `bootstrap` would: at once.

    How many of a resample are hits is binomial.
    """
    return middle(generator.binomial(examples, hits / examples, RESAMPLES) / examples)


def _drawn(examples: int, generator: np.random.Generator) -> Numbers:
    rows = generator.integers(0, examples, examples)
    return np.bincount(rows, minlength=examples).astype(np.float64)


def middle(values: NDArray[np.float64]) -> Interval | None:
    """Return the interval in which `LEVEL` of ``values`` lie, NaN left out; None without any."""
    there = values[~np.isnan(values)]
    return middles(there[None])[0] if len(there) else None


def middles(rows: NDArray[np.float64]) -> tuple[Interval | None, ...]:
    """Return the `middle` of each row, those without NaN at once."""
    with_gaps = np.asarray(np.isnan(rows).any(axis=1))
    whole = np.quantile(rows[~with_gaps], [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=1)
    found = iter(whole.T.tolist())
    return tuple(
        middle(row) if gaps else tuple(next(found))
        for row, gaps in zip(rows, with_gaps, strict=True)
    )
