"""Finds the order in time of shuffled windows that overlap, by extreme values in common.

Neighboring windows of UCI HAR have half of their samples in common. Where the largest (or smallest)
value of a signal lies in the common half, both windows have the same maximum (or minimum), bit for
bit. Windows that do not overlap practically never do.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from client_app.data.splitting import SplitIndices, block_splits
from fedstrata.support.errors import UserError, private

# The columns of maxima and minima over time, by features.txt: five signals with three axes have 40
# features each (mean, std and mad come first, three each), then five magnitudes 13 each. Spectra are
# left out, since their extremes are not values of samples.
AXES = [40 * signal + number for signal in range(5) for number in range(9, 15)]
MAGNITUDES = [200 + 13 * signal + number for signal in range(5) for number in (3, 4)]
EXTREMES = np.array(AXES + MAGNITUDES)
MOST_OVERLAP_FREE = 0.25  # of the shuffled windows; 0.2 % in the published data
SURE = 2  # equal extremes that make neighbors; a single one happens by chance


def blocks_in_time(
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    name: str,
    *,
    validation: float,
    test: float,
) -> SplitIndices:
    """Cut a subject's windows along time into splits that share no samples.

    Parameters
    ----------
    features, labels : NDArray
        As in `shared_extremes`, in order of time or shuffled.
    name : str
        Of the subject, for the error text.
    validation, test : float
        Shares of each activity, as in `block_splits`.

    Raises
    ------
    UserError
        The rows are shuffled, and their order cannot be found.
    """
    changes = int(np.count_nonzero(np.diff(labels)))
    # A recording stays with an activity for ten windows or more, but shuffled rows change at nearly
    # every one. Blocks of shuffled rows would have neighbors in time in other blocks.
    if 3 * changes <= len(labels):
        return block_splits(labels, validation=validation, test=test)
    shared = shared_extremes(features, labels)
    unknown = overlap_free_share(shared)
    if unknown > MOST_OVERLAP_FREE:
        raise UserError(
            private(f"{name}: ")
            + f"the rows are not in order of time (the activity changes {changes} times in "
            f"{len(labels)} rows), and {unknown:.0%} of them share no extreme value with "
            "another, so their order cannot be found and they cannot be cut into blocks; "
            "use data.split=random"
        )
    order = in_order_of_time(shared)
    blocks = block_splits(labels[order], validation=validation, test=test)
    return _without_overlaps(SplitIndices(*(np.sort(order[part]) for part in blocks)), shared)


def _without_overlaps(parts: SplitIndices, shared: NDArray[np.int64]) -> SplitIndices:
    """Leave out windows that have even one extreme in common with a later split."""
    train, validation, test = parts
    beside_test = np.asarray(shared[:, test].any(axis=1))
    validation = validation[~beside_test[validation]]
    beside = beside_test | np.asarray(shared[:, validation].any(axis=1))
    return SplitIndices(train[~beside[train]], validation, test)


def shared_extremes(features: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how many extremes each pair of windows has in common, int64 ``(n, n)``.

    Parameters
    ----------
    features : NDArray[np.float32]
        One subject's windows, ``(n, 561)``.
    labels : NDArray[np.int64]
        Their activities, ``(n,)``. Windows of different activities have none in common.
    """
    extremes = features[:, EXTREMES]
    shared = np.zeros((len(features), len(features)), dtype=np.int64)
    for column in extremes.T:
        shared += column[:, None] == column[None, :]
    shared[labels[:, None] != labels[None, :]] = 0
    np.fill_diagonal(shared, 0)
    return shared


def in_order_of_time(shared: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the windows recording by recording, each forwards or backwards in time.

    Neighbors are joined, those with most in common first. A window has at most two neighbors, and
    no recording becomes a ring. Recordings are ordered by their smallest row.

    Parameters
    ----------
    shared : NDArray[np.int64]
        From `shared_extremes`, ``(n, n)``.

    Returns
    -------
    NDArray[np.int64]
        A permutation of the rows, ``(n,)``.
    """
    neighbors: list[list[int]] = [[] for _ in range(len(shared))]
    recording = list(range(len(shared)))

    def first_of(row: int) -> int:
        while recording[row] != row:
            recording[row] = recording[recording[row]]
            row = recording[row]
        return row

    first, second = np.nonzero(np.triu(shared >= SURE))
    for pair in np.argsort(-shared[first, second], kind="stable"):
        one, other = int(first[pair]), int(second[pair])
        if max(len(neighbors[one]), len(neighbors[other])) < 2:
            roots = sorted((first_of(one), first_of(other)))
            if roots[0] != roots[1]:
                recording[roots[1]] = roots[0]
                neighbors[one].append(other)
                neighbors[other].append(one)
    return _along(neighbors)


def _along(neighbors: list[list[int]]) -> NDArray[np.int64]:
    """Return the rows along each path, from its end with the smaller row."""
    order: list[int] = []
    seen: set[int] = set()
    for end in (row for row, beside in enumerate(neighbors) if len(beside) < 2):
        here: int | None = end if end not in seen else None
        while here is not None:
            order.append(here)
            seen.add(here)
            here = next((row for row in neighbors[here] if row not in seen), None)
    return np.array(order, dtype=np.int64)


def overlap_free_share(shared: NDArray[np.int64]) -> float:
    """Return the share of windows that no other window overlaps."""
    return float((shared.max(axis=1, initial=0) < SURE).mean())
