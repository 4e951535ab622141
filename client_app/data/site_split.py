"""Splits one folder or file among the sites of a simulation."""

from __future__ import annotations

import contextlib
import hashlib
import io
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from client_app.data.extended_dirichlet import extended_dirichlet
from client_app.data.site_info import SiteInfo
from fedstrata.support.errors import UserError, nearest, private
from fedstrata.support.seeds import derive_seed

if TYPE_CHECKING:
    from flwr_datasets.partitioner import Partitioner

SCHEMES = (
    "iid",
    "dirichlet",
    "dirichlet_balanced",
    "extended_dirichlet",
    "pathological",
    "linear",
    "square",
    "exponential",
    "natural",
    "domain",
    "none",
)
COLUMN_SCHEMES = ("natural", "domain")
DIRICHLET = ("dirichlet", "dirichlet_balanced", "extended_dirichlet")
BY_CLASS = (*DIRICHLET, "pathological")

MOST_DRAWN = 4  # splits that a process keeps, one for each task of a run
_drawn: OrderedDict[bytes, Partitioner] = (
    OrderedDict()
)  # by what each depends on, the last used last
_SMALLER = "; lower data.site_split.smallest, raise data.site_split.alpha, or start fewer sites"
Numbers = NDArray[np.float64]
# Sizes of the shares of sites 1, 2, ..., n, up to a common factor. The exponential ones are divided
# by e^n, because e^i alone overflows from 710 sites on.
SHARE_SIZES: Mapping[str, Callable[[Numbers], Numbers]] = {
    "linear": lambda numbers: numbers,
    "square": np.square,
    "exponential": lambda numbers: np.exp(numbers - numbers[-1]),
}


@dataclass(frozen=True)
class SiteSplit:
    """How one folder or file is split among the sites of a simulation.

    A deployed site keeps all of its own data, whatever the scheme.

    Parameters
    ----------
    scheme : str
        - ``iid``: equal shares at random.
        - ``dirichlet``: shares of each class are drawn from a Dirichlet distribution.
        - ``dirichlet_balanced``: as ``dirichlet``, but a site that has more than the average number
          of examples is given none of the next classes (as in the tables of personalised methods).
        - ``extended_dirichlet``: each site has ``classes_per_site`` classes, of which shares are
          drawn as in ``dirichlet`` (`extended_dirichlet`).
        - ``pathological``: each site has a few classes.
        - ``linear``, ``square``, ``exponential``: all classes alike, but site ``i`` (from 1 on)
          has a share in proportion to ``i``, ``i**2``, ``e**i``.
        - ``natural``: each site has one value of ``column``, in sorted order.
        - ``domain``: as ``natural``, but starting again after the last value; the sites of one
          value split it equally at random.
        - ``none``: every site has everything.
    alpha : float
        For the three by Dirichlet: a smaller number makes the shares more unequal.
    smallest : int
        For the three by Dirichlet: the fewest examples of a site; shares are drawn until all have
        these.
    classes_per_site : int
        For ``pathological`` and ``extended_dirichlet``.
    column : str or None
        For ``natural`` and ``domain``: the column with the values.
    """

    scheme: str
    alpha: float
    smallest: int
    classes_per_site: int
    column: str | None

    def __post_init__(self) -> None:
        if self.scheme not in SCHEMES:
            raise UserError(
                f"data.site_split.scheme: no scheme {self.scheme!r}; there is "
                f"{nearest(self.scheme, SCHEMES)}"
            )
        if not 0 < self.alpha < float("inf"):
            raise UserError(f"data.site_split.alpha: {self.alpha} is not a positive number")
        if self.classes_per_site < 1:
            raise UserError("data.site_split.classes_per_site: at least 1")

    def required_column(self) -> str | None:
        """Return the column that the scheme needs, or None for a scheme that needs none.

        Raises
        ------
        UserError
            The scheme needs a column and none is named.
        """
        if self.scheme not in COLUMN_SCHEMES:
            return None
        if not self.column:
            raise UserError(f"data.site_split.column: name the column that {self.scheme!r} goes by")
        return self.column


@dataclass(frozen=True)
class Rank:
    """Which of the sites that share the same examples this is, as rank and world size in torch.

    Parameters
    ----------
    index : int
        From 0 to ``count - 1``.
    count : int
        How many sites share the examples; 1 for a site alone.
    """

    index: int
    count: int


ALONE = Rank(0, 1)


def rank_of(info: SiteInfo, tasks: int = 1) -> tuple[int, Rank]:
    """Return the site's task number and its rank among the sites of that task.

    Site ``i`` has task ``i % tasks``. A deployed site has no index and shares its data with nobody.

    Raises
    ------
    UserError
        The site has an index, but the number of sites is not given.
    """
    if info.index is None:
        return 0, ALONE
    if info.count is None:
        raise UserError(
            "sites that share one data-root need to know how many they are: give num-partitions "
            "beside partition-id in the node config"
        )
    number = info.index % tasks
    return number, Rank(info.index // tasks, len(range(number, info.count, tasks)))


def task_and_rank(info: SiteInfo, tasks: Sequence[str]) -> tuple[str, Rank]:
    """Return the site's task and its rank among those that share the task's examples.

    The task is the one in the site's node config; without it site ``i`` has
    ``tasks[i % len(tasks)]``.

    Raises
    ------
    UserError
        There are several tasks, and neither node config nor index says which is this site's.
    """
    if info.task is not None:
        return info.task, rank_of(info)[1]
    if len(tasks) > 1 and info.index is None:
        raise UserError(
            f"data.tasks has {len(tasks)} tasks: name this site's own in its node config, "
            f"as in --node-config 'task=\"{tasks[0]}\"'"
        )
    number, rank = rank_of(info, len(tasks))
    return tasks[number], rank


def seed_of_split(seed: int, data: str, shared: str) -> int:
    """Return the seed for `rows_of_site`, the same for all sites that share ``shared`` of ``data``."""
    # "partition" is an earlier name of the split. Any other word would give other shares.
    return derive_seed(seed, data, "partition", shared)


def rows_of_site(
    options: SiteSplit,
    labels: NDArray[np.int64],
    rank: Rank,
    seed: int,
    domains: NDArray[np.str_] | None = None,
    units: NDArray[np.int64] | None = None,
) -> NDArray[np.int64]:
    """Return the rows of ``labels`` that belong to the site at ``rank``.

    The shares of all ranks are disjoint and cover every row. There are two exceptions: with
    ``none`` each share is everything, and with ``natural`` or ``domain`` and fewer sites than
    values, the last values belong to no site.

    Parameters
    ----------
    options : SiteSplit
        Scheme and its numbers.
    labels : NDArray[np.int64]
        Class indices of everything that the sites share, shape ``(n,)``.
    rank : Rank
        Which share. A site alone has every row, whatever the scheme.
    seed : int
        The same for all sites that share the examples.
    domains : NDArray[np.str_], optional
        The value of each row for the schemes ``natural`` and ``domain``, shape ``(n,)``.
    units : NDArray[np.int64], optional
        Shape ``(n,)``. Rows with the same number, such as those of a patient, go to one site. They
        count once, with the class of the first.

    Returns
    -------
    NDArray[np.int64]
        Row numbers, sorted.

    Raises
    ------
    UserError
        The examples cannot be split like this.
    """
    if rank.count == 1 or options.scheme == "none":
        return np.arange(len(labels))
    whole = options.scheme not in COLUMN_SCHEMES  # a value keeps together what is of one
    if whole and units is not None and len(np.unique(units)) < len(units):
        _, first, unit_of = np.unique(units, return_index=True, return_inverse=True)
        order = np.argsort(first)  # as the rows are, so that a unit of one row changes nothing
        own = rows_of_site(options, labels[first[order]], rank, seed)
        return np.flatnonzero(np.isin(unit_of, order[own]))
    if rank.count > len(labels):
        raise UserError(f"data.site_split: {len(labels)} examples for {rank.count} sites")
    if options.scheme == "domain":
        return _rows_of_domain(options, labels, rank, seed, domains, units)
    if options.scheme in DIRICHLET and options.smallest * rank.count > len(labels):
        raise UserError(
            f"data.site_split ({options.scheme}): {rank.count} sites with at least {options.smallest} "
            f"examples each need {options.smallest * rank.count}, and there are "
            + private(len(labels), "fewer")
            + _SMALLER
        )
    if options.scheme == "extended_dirichlet":
        return extended_dirichlet(
            labels,
            rank.count,
            classes_per_site=options.classes_per_site,
            alpha=options.alpha,
            smallest=options.smallest,
            seed=seed,
        )[rank.index]
    if options.scheme in SHARE_SIZES:
        _reject_empty_shares(options.scheme, len(labels), rank)
    # Flower's partitioners take rows in their order, so a shuffle comes first.
    order = np.random.default_rng(seed).permutation(len(labels))
    if options.scheme == "iid":  # as Flower's IidPartitioner, of which the import takes seconds
        return np.sort(np.array_split(order, rank.count)[rank.index])
    return _rows_by_flower(options, labels, rank, seed, domains, order)


def _rows_by_flower(
    options: SiteSplit,
    labels: NDArray[np.int64],
    rank: Rank,
    seed: int,
    domains: NDArray[np.str_] | None,
    order: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Return the rows of a site as Flower's partitioner splits them; ``order`` is their shuffle."""
    # Drawn once for all sites of a process: each draw goes through all examples.
    values = _one_domain_each(options, domains, rank) if options.scheme == "natural" else None
    content = hashlib.sha256(f"{options} {rank.count} {seed}".encode())
    content.update(labels.tobytes())
    content.update(b"" if values is None else f"{values.dtype}".encode() + values.tobytes())
    key = content.digest()
    partitioner = _drawn.pop(key, None)
    if partitioner is None:
        partitioner = _undrawn(options, labels, rank, seed, values, order)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")  # each retry of a draw warns; the last one raises
            chosen = partitioner.load_partition(rank.index)
    except ValueError as error:
        message = f"data.site_split ({options.scheme}): "
        advice = _SMALLER if options.scheme in DIRICHLET else ""
        why = private(error, "these data cannot be split like this")
        raise UserError(message + why + advice) from error
    _drawn[key] = partitioner
    while len(_drawn) > MOST_DRAWN:
        _drawn.popitem(last=False)
    return np.sort(np.asarray(chosen[:]["row"], dtype=np.int64))  # not row by row


def _undrawn(
    options: SiteSplit,
    labels: NDArray[np.int64],
    rank: Rank,
    seed: int,
    values: NDArray[np.str_] | None,
    order: NDArray[np.int64],
) -> Partitioner:
    """Return a partitioner that draws the shares of all sites when it is first asked for one."""
    # Imported here, because it takes seconds and a deployed site never needs it.
    from datasets import Dataset

    columns: dict[str, list[int] | list[str]] = {
        "row": order.tolist(),
        "label": labels[order].tolist(),
    }
    if values is not None:
        columns["domain"] = values[order].tolist()
    partitioner = _partitioner(options, labels, rank, seed)
    partitioner.dataset = Dataset.from_dict(columns)
    return partitioner


def _rows_of_domain(
    options: SiteSplit,
    labels: NDArray[np.int64],
    rank: Rank,
    seed: int,
    domains: NDArray[np.str_] | None,
    units: NDArray[np.int64] | None,
) -> NDArray[np.int64]:
    """Return the rows of site ``i``: its share of the ``i % D``-th of the ``D`` domains."""
    given = _require_domains("domain", domains)
    values = sorted(set(given.tolist()))
    number = rank.index % len(values)
    rows = np.flatnonzero(given == values[number])
    within = Rank(rank.index // len(values), len(range(number, rank.count, len(values))))
    if within.count > len(rows):
        raise UserError(
            "data.site_split: "
            + private(f"the domain {values[number]!r}", "a domain")
            + f" has {len(rows)} examples for the {within.count} sites that share it: start fewer "
            "sites, or add examples to it"
        )
    within_units = None if units is None else units[rows]
    iid = replace(options, scheme="iid")
    return rows[rows_of_site(iid, labels[rows], within, seed, units=within_units)]


def value_of_site(
    options: SiteSplit, rank: Rank, domains: NDArray[np.str_] | None
) -> tuple[str, list[str]]:
    """Return the value that a site of a simulation has, and the values that no site has.

    Both are empty where the scheme does not go by values.
    """
    if options.scheme not in COLUMN_SCHEMES or rank.count == 1 or domains is None:
        return "", []
    values = sorted(set(domains.tolist()))
    return values[rank.index % len(values)], values[rank.count :]


def _require_domains(scheme: str, domains: NDArray[np.str_] | None) -> NDArray[np.str_]:
    if domains is None:
        raise UserError(
            f"data.site_split.scheme: {scheme!r} needs a manifest with a column to go by, or "
            "folders of domains (data.domains=true)"
        )
    return domains


def _one_domain_each(
    options: SiteSplit, domains: NDArray[np.str_] | None, rank: Rank
) -> NDArray[np.str_]:
    """Return ``domains``, or raise a `UserError` where they are fewer than the sites."""
    given = _require_domains("natural", domains)
    values = sorted(set(given.tolist()))
    if rank.count > len(values):
        column = f"column {options.column!r}" if options.column else "data-root"
        raise UserError(
            f"data.site_split: {column} has {len(values)} values for {rank.count} "
            f"sites: start fewer, with --federation-config 'num-supernodes={len(values)}', or use "
            "data.site_split.scheme=domain, with which sites share a value"
        )
    return given


def _reject_empty_shares(scheme: str, examples: int, rank: Rank) -> None:
    """Raise a `UserError` where the first site, which has the smallest share, would have nothing."""

    def smallest(sites: int) -> float:
        sizes = SHARE_SIZES[scheme](np.arange(1, sites + 1, dtype=np.float64))
        return float(sizes[0] / sizes.sum() * examples)

    if smallest(rank.count) >= 1:
        return
    most = next(sites for sites in range(rank.count - 1, 0, -1) if smallest(sites) >= 1)
    raise UserError(
        f"data.site_split ({scheme}): of {examples} examples for {rank.count} sites, the smallest "
        f"share is less than one: start {most} sites or fewer, with --federation-config "
        f"'num-supernodes={most}', or use a scheme with smaller differences "
        "(exponential > square > linear > iid)"
    )


def _partitioner(
    options: SiteSplit, labels: NDArray[np.int64], rank: Rank, seed: int
) -> Partitioner:
    from flwr_datasets import partitioner as flower

    if options.scheme == "natural":
        return flower.NaturalIdPartitioner("domain")
    if options.scheme == "linear":
        return flower.LinearPartitioner(rank.count)
    if options.scheme == "square":
        return flower.SquarePartitioner(rank.count)
    if options.scheme == "exponential":
        return flower.ExponentialPartitioner(rank.count)
    if options.scheme in DIRICHLET:
        return flower.DirichletPartitioner(
            rank.count,
            "label",
            alpha=options.alpha,
            min_partition_size=options.smallest,
            self_balancing=options.scheme == "dirichlet_balanced",
            seed=seed,
        )
    _reject_unused_classes(options, labels, rank)
    return flower.PathologicalPartitioner(
        rank.count,
        "label",
        options.classes_per_site,
        class_assignment_mode="deterministic",
        seed=seed,
    )


def _reject_unused_classes(options: SiteSplit, labels: NDArray[np.int64], rank: Rank) -> None:
    """Raise a `UserError` where some classes would belong to no site.

    Flower's partitioner gives site ``i`` the classes ``i``, ``i + 1``, ...
    """
    kinds = len(np.unique(labels))
    if rank.count + options.classes_per_site - 1 < kinds:
        raise UserError(
            f"data.site_split: {rank.count} sites with {options.classes_per_site} classes each leave "
            f"some of the {kinds} classes unused: use "
            f"data.site_split.classes_per_site={kinds - rank.count + 1} or more"
        )
