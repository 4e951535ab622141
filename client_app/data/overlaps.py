"""Finds the order of time of shuffled windows that overlap, by the extreme values they share.

The windows of UCI HAR are cut with half of their samples in common. Where the largest (or smallest)
value of a signal lies in the common half, both windows have the very same number as its maximum
(or minimum), to the last bit, and windows apart from one another practically never do.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Maxima and minima over time in features.txt: five signals with three axes have 40 features each
# (mean, std and mad come first, three each), then five magnitudes 13 each. Spectra do not overlap.
AXES = [40 * signal + number for signal in range(5) for number in range(9, 15)]
MAGNITUDES = [200 + 13 * signal + number for signal in range(5) for number in (3, 4)]
EXTREMES = np.array(AXES + MAGNITUDES)
SURE = 2  # equal extremes that make neighbours; one alone happens by chance


def shared_extremes(features: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how many extremes each pair of windows has in common, int64 ``(n, n)``.

    Parameters
    ----------
    features : NDArray[np.float32]
        One subject's windows, ``(n, 561)``.
    labels : NDArray[np.int64]
        Their activities, ``(n,)``; windows of two activities, and a window and itself, share 0.
    """
    extremes = features[:, EXTREMES]
    shared = np.zeros((len(features), len(features)), dtype=np.int64)
    for column in extremes.T:
        shared += column[:, None] == column[None, :]
    shared[labels[:, None] != labels[None, :]] = 0
    np.fill_diagonal(shared, 0)
    return shared


def in_order_of_time(shared: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the windows recording by recording, each along time (forwards or backwards).

    Neighbours are joined beginning with those that share most; a window has at most two, and no
    recording closes to a ring. Recordings follow one another by their smallest row.

    Parameters
    ----------
    shared : NDArray[np.int64]
        From `shared_extremes`, ``(n, n)``.

    Returns
    -------
    NDArray[np.int64]
        A permutation of the rows, ``(n,)``.
    """
    neighbours: list[list[int]] = [[] for _ in range(len(shared))]
    recording = list(range(len(shared)))

    def first_of(row: int) -> int:
        while recording[row] != row:
            recording[row] = recording[recording[row]]
            row = recording[row]
        return row

    first, second = np.nonzero(np.triu(shared >= SURE))
    for pair in np.argsort(-shared[first, second], kind="stable"):
        one, other = int(first[pair]), int(second[pair])
        if max(len(neighbours[one]), len(neighbours[other])) < 2:
            roots = sorted((first_of(one), first_of(other)))
            if roots[0] != roots[1]:
                recording[roots[1]] = roots[0]
                neighbours[one].append(other)
                neighbours[other].append(one)
    return _along(neighbours)


def _along(neighbours: list[list[int]]) -> NDArray[np.int64]:
    """Walk each path from its end with the smaller row."""
    order: list[int] = []
    seen: set[int] = set()
    for end in (row for row, beside in enumerate(neighbours) if len(beside) < 2):
        here: int | None = end if end not in seen else None
        while here is not None:
            order.append(here)
            seen.add(here)
            here = next((row for row in neighbours[here] if row not in seen), None)
    return np.array(order, dtype=np.int64)


def alone(shared: NDArray[np.int64]) -> float:
    """Return the share of windows that no other window overlaps."""
    return float((shared.max(axis=1, initial=0) < SURE).mean())
