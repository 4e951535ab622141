"""Splits classes among sites first, then the examples of each class (Li et al. 2023)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedstrata.support.errors import UserError, private

MOST_DRAWS = 100
Rows = NDArray[np.int64]


def extended_dirichlet(
    labels: NDArray[np.int64],
    sites: int,
    *,
    classes_per_site: int,
    alpha: float,
    smallest: int,
    seed: int,
) -> list[Rows]:
    """Return the rows of each site, sorted; together they are all rows.

    ExDir(C, alpha) of Li and Lyu (arXiv 2311.03154): each site is given ``C`` classes, and the
    examples of a class are shared among its sites by a draw from a Dirichlet distribution. Classes
    that few sites have so far are given first, with ties at random, so that no class is left over.

    Parameters
    ----------
    labels : NDArray[np.int64]
        Class indices, shape ``(n,)``.
    sites : int
        How many.
    classes_per_site, alpha : int, float
        ``C`` and ``alpha``: a smaller ``alpha`` makes the shares more unequal.
    smallest : int
        The fewest examples of a site; shares are drawn until all have these.
    seed : int
        The same seed gives the same rows.

    Raises
    ------
    UserError
        There are too few classes, or too few sites for them, or no draw gives each site enough.
    """
    generator = np.random.default_rng(seed)
    kinds = np.unique(labels)
    for _ in range(MOST_DRAWS):
        holders = _holders(len(kinds), sites, classes_per_site, generator)
        parts: list[list[Rows]] = [[] for _ in range(sites)]
        for kind, own in zip(kinds, holders, strict=True):
            rows = generator.permutation(np.flatnonzero(labels == kind))
            shares = generator.dirichlet(np.full(len(own), alpha))
            cuts = (np.cumsum(shares)[:-1] * len(rows)).astype(np.int64)
            for site, part in zip(own, np.split(rows, cuts), strict=True):
                parts[site].append(part)
        made = [np.sort(np.concatenate(part)) for part in parts]
        if min(map(len, made)) >= smallest:
            return made
    raise UserError(
        f"data.site_split (extended_dirichlet): no site may have fewer than {smallest} examples, "
        f"and {MOST_DRAWS} draws left one with fewer; lower data.site_split.smallest, raise "
        "data.site_split.alpha or data.site_split.classes_per_site, or start fewer sites"
    )


def _holders(
    kinds: int, sites: int, each: int, generator: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Return the sites that have each class; every site has ``each`` classes."""
    where = f"data.site_split.classes_per_site: {each}"
    if each > kinds:
        raise UserError(where + private(f", and there are {kinds} classes", " is too many"))
    if each * sites < kinds:
        raise UserError(
            where
            + f" at each of {sites} sites leave some of the "
            + private(kinds, "")
            + f" classes unused: use {-(-kinds // sites)} or more"
        )
    held = np.zeros((kinds, sites), dtype=bool)
    for site in range(sites):
        order = generator.permutation(kinds)
        order = order[np.argsort(held[order].sum(axis=1), kind="stable")]
        held[order[:each], site] = True
    return [np.flatnonzero(row) for row in held]
