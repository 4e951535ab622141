"""Splits a site's examples into train, validation and test, and samples few of each class."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedstrata.support.errors import UserError

Indices = NDArray[np.int64]
SPLIT_NUMBERS = {None: 0, "train": 0, "validation": 1, "test": 2}


class SplitIndices(NamedTuple):
    """Example indices of each split, sorted and disjoint."""

    train: Indices
    validation: Indices
    test: Indices


def check_fractions(validation: float, test: float) -> None:
    """Raise a `UserError` unless both fractions are above 0 and leave something to train on."""
    for name, value in (("validation_fraction", validation), ("test_fraction", test)):
        if not 0 < value < 1:
            raise UserError(f"data.{name}: {value} is not between 0 and 1")
    if not validation + test < 1:
        raise UserError(
            f"data.validation_fraction + data.test_fraction = {validation + test:g} "
            "leaves nothing to train on"
        )


def stratified_splits(
    labels: NDArray[np.int64],
    *,
    validation: float,
    test: float,
    seed: int,
    copies: NDArray[np.int64] | None = None,
) -> SplitIndices:
    """Draw the splits at random, with the same shares in every class.

    Parameters
    ----------
    labels : NDArray[np.int64]
        Class indices, shape ``(n,)``.
    validation, test : float
        Shares of each class: ``round(m * share)`` of its ``m`` examples.
    seed : int
        The same seed gives the same splits.
    copies : NDArray[np.int64], optional
        Shape ``(n,)``. Examples with the same number are copies of each other and stay in one
        split. They count once, with the class of the first.
    """
    groups = np.arange(len(labels)) if copies is None else copies
    _, first, group_of = np.unique(groups, return_index=True, return_inverse=True)
    split_of = np.zeros(len(first), dtype=np.int64)
    generator = np.random.default_rng(seed)
    for kind in np.unique(labels):
        of_kind = generator.permutation(np.flatnonzero(labels[first] == kind))
        tested, validated = _rounded(len(of_kind) * test), _rounded(len(of_kind) * validation)
        split_of[of_kind[:tested]] = 2
        split_of[of_kind[tested : tested + validated]] = 1
    return _parts(split_of[group_of])


def block_splits(labels: NDArray[np.int64], *, validation: float, test: float) -> SplitIndices:
    """Cut each class along time into train, validation and test, with a gap at every cut.

    Neighboring windows of a recording have half of their samples in common. A row next to a row of
    a later split is therefore left out, so that no two splits have neighbors.

    Parameters
    ----------
    labels : NDArray[np.int64]
        Class indices in order of time, shape ``(n,)``.
    validation, test : float
        Shares of each class. The gaps are taken from the rows for training.
    """
    split_of = np.zeros(len(labels), dtype=np.int64)
    for kind in np.unique(labels):
        of_kind = np.flatnonzero(labels == kind)
        tested, validated = _rounded(len(of_kind) * test), _rounded(len(of_kind) * validation)
        cut = len(of_kind) - tested
        gap = max(0, cut - 1) if tested else cut
        split_of[of_kind[max(0, gap - validated) : gap]] = 1
        split_of[of_kind[gap:cut]] = -1  # in no split
        split_of[of_kind[cut:]] = 2
    beside = np.zeros(len(split_of), dtype=np.int64)
    beside[1:] = split_of[:-1]
    beside[:-1] = np.maximum(beside[:-1], split_of[1:])
    return _parts(np.where(beside > split_of, -1, split_of))


def fractions_to_draw(
    given: Collection[str | None], validation: float, test: float
) -> tuple[float, float]:
    """Return the shares to draw for validation and test: 0 for a split that the data give.

    ``given`` are the splits in the data of all sites together. With those of one site, the sites
    would draw different splits.
    """
    return 0.0 if "validation" in given else validation, 0.0 if "test" in given else test


def fill_missing_splits(
    given: Sequence[str | None],
    labels: NDArray[np.int64],
    *,
    validation: float,
    test: float,
    seed: int,
    copies: NDArray[np.int64],
) -> SplitIndices:
    """Keep the splits that the data give, and draw the missing ones from the rest.

    Parameters
    ----------
    given : sequence of str or None
        ``train``, ``validation``, ``test`` or None (not given) for each of the ``n`` examples.
    labels, copies : NDArray[np.int64]
        As in `stratified_splits`, shape ``(n,)``.
    validation, test : float
        Shares of the examples that the data do not give to ``validation`` or ``test``; 0 for a
        split that the data give.
    seed : int
        The same seed gives the same splits.
    """
    split_of = np.array([SPLIT_NUMBERS[name] for name in given], dtype=np.int64)
    rest = np.flatnonzero(split_of == 0)
    drawn = stratified_splits(
        labels[rest],
        validation=validation,
        test=test,
        seed=seed,
        copies=copies[rest],
    )
    split_of[rest[drawn.validation]] = 1
    split_of[rest[drawn.test]] = 2
    return _parts(split_of)


def sample_per_class(labels: NDArray[np.int64], most: int, seed: int) -> Indices:
    """Draw at most ``most`` examples of each class.

    Parameters
    ----------
    labels : NDArray[np.int64]
        Class indices, shape ``(n,)``.
    most : int
        1 or more. A class that has fewer keeps all of them.
    seed : int
        The same seed gives the same rows. A larger ``most`` adds rows to those of a smaller one.

    Returns
    -------
    NDArray[np.int64]
        Row numbers, sorted.
    """
    generator = np.random.default_rng(seed)
    drawn = [
        generator.permutation(np.flatnonzero(labels == kind))[:most] for kind in np.unique(labels)
    ]
    return np.sort(np.concatenate([np.empty(0, dtype=np.int64), *drawn]))


def _rounded(number: float) -> int:
    # round() would take 0.5 to 0, and a class of few examples would have none in a split.
    return int(number + 0.5)


def _parts(split_of: NDArray[np.int64]) -> SplitIndices:
    return SplitIndices(
        *(np.flatnonzero(split_of == number).astype(np.int64) for number in range(3))
    )
