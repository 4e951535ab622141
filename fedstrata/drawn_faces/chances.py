"""Chance for many rows at once: a uniform number per row and question becomes an answer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


class Chances:
    """Answers questions with one random value per row.

    Every question takes the next columns of ``uniforms``, so a row's answers depend on that row
    and on the order of the questions alone, never on the other rows.

    Parameters
    ----------
    uniforms : NDArray[np.float64]
        Numbers in [0, 1), shape ``(rows, columns)``.
    """

    def __init__(self, uniforms: Floats) -> None:
        self._columns = iter(uniforms.T)

    def between(self, low: ArrayLike, high: ArrayLike) -> Floats:
        """Return values uniform in [low, high), shape ``(rows,)``."""
        low, high = np.asarray(low, float), np.asarray(high, float)
        return np.asarray(low + (high - low) * self._next())

    def around(self, mean: ArrayLike, spread: float) -> Floats:
        """Return normal values, cut at 2.2 standard deviations, shape ``(rows,)``."""
        radius = np.sqrt(-2.0 * np.log1p(-self._next()))
        normal = radius * np.cos(2.0 * np.pi * self._next())
        return np.asarray(np.asarray(mean, float) + spread * np.clip(normal, -2.2, 2.2))

    def yes(self, probability: ArrayLike) -> Bools:
        """Return True with the given probability, shape ``(rows,)``."""
        return np.asarray(self._next() < np.asarray(probability, float))

    def sign(self) -> Floats:
        """Return -1 or 1, shape ``(rows,)``."""
        return np.where(self.yes(0.5), 1.0, -1.0)

    def pick(self, weights: ArrayLike) -> Ints:
        """Return an index drawn by ``weights`` of shape ``(m,)`` or ``(rows, m)``."""
        edges = np.cumsum(np.atleast_2d(np.asarray(weights, float)), axis=1)
        drawn = self._next()[:, None] * edges[:, -1:]
        return np.asarray((drawn >= edges).sum(axis=1), np.int64)

    def colour(self, palette: Sequence[Sequence[float]], jitter: float = 8.0) -> Floats:
        """Return a colour between two neighbours of a palette, 0 to 255, shape ``(rows, 3)``."""
        colours = np.asarray(palette, float)
        place = self.between(0.0, len(colours) - 1.0)
        mixed = [np.interp(place, np.arange(len(colours)), channel) for channel in colours.T]
        shifted = [channel + self.between(-jitter, jitter) for channel in mixed]
        return np.asarray(np.clip(np.stack(shifted, axis=1), 0.0, 255.0))

    def _next(self) -> Floats:
        uniforms: Floats = next(self._columns)
        return uniforms
