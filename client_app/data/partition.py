"""Shares out a folder or file that all sites of a simulation have in common."""

from __future__ import annotations

import contextlib
import io
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from client_app.data.seat import Seat
from models.errors import UserError, nearest

if TYPE_CHECKING:
    from flwr_datasets.partitioner import Partitioner

SCHEMES = ("iid", "dirichlet", "pathological", "natural", "none")


@dataclass(frozen=True)
class PartitionOptions:
    """How the sites of a simulation share one folder or file; a deployed site keeps all of its own.

    Parameters
    ----------
    scheme : str
        ``iid``: equal shares at random; ``dirichlet``: shares of each class drawn from a Dirichlet
        distribution; ``pathological``: a few classes a site; ``natural``: one value of ``column``
        a site, in sorted order; ``none``: every site has everything.
    alpha : float
        Of the Dirichlet distribution: the smaller, the more unequal.
    smallest : int
        With ``dirichlet``, the fewest examples that a site gets; drawn anew until it holds.
    classes_per_site : int
        With ``pathological``.
    column : str or None
        With ``natural``, the column to go by.
    """

    scheme: str
    alpha: float
    smallest: int
    classes_per_site: int
    column: str | None

    def __post_init__(self) -> None:
        if self.scheme not in SCHEMES:
            raise UserError(
                f"data.partition.scheme: no scheme {self.scheme!r}; there is "
                f"{nearest(self.scheme, SCHEMES)}"
            )
        if not 0 < self.alpha < float("inf"):
            raise UserError(f"data.partition.alpha: {self.alpha} is not a positive number")
        if self.classes_per_site < 1:
            raise UserError("data.partition.classes_per_site: at least 1")
        if self.scheme == "natural" and not self.column:
            raise UserError("data.partition.column: name the column that 'natural' goes by")


@dataclass(frozen=True)
class Place:
    """A site's number among those that share the same examples; ``of`` is 1 for a site alone."""

    number: int
    of: int


ALONE = Place(0, 1)


def place_of(seat: Seat, tasks: int = 1) -> tuple[int, Place]:
    """Return the seat's task number and its place among the sites of that task.

    Site ``i`` has task ``i % tasks``, so the sites of one task are every ``tasks``-th. A site
    without an index (a deployed one) has its data for itself.
    """
    if seat.index is None:
        return 0, ALONE
    if seat.count is None:
        raise UserError(
            "sites that share one data-root need to know how many they are: give num-partitions "
            "beside partition-id in the node config"
        )
    number = seat.index % tasks
    return number, Place(seat.index // tasks, len(range(number, seat.count, tasks)))


def share(
    options: PartitionOptions,
    labels: NDArray[np.int64],
    place: Place,
    seed: int,
    natural: NDArray[np.str_] | None = None,
) -> NDArray[np.int64]:
    """Return the rows of ``labels`` that belong to the site at ``place``.

    Parameters
    ----------
    options : PartitionOptions
        Scheme and its numbers.
    labels : NDArray[np.int64]
        Class indices of everything that the sites share, shape ``(n,)``.
    place : Place
        Which share; for all places of one ``of`` the shares are disjoint and cover every row.
    seed : int
        The same for all sites that share.
    natural : NDArray[np.str_], optional
        Values of the column that the scheme ``natural`` goes by, shape ``(n,)``.

    Returns
    -------
    NDArray[np.int64]
        Row numbers, sorted.

    Raises
    ------
    UserError
        The examples cannot be shared out so.
    """
    if place.of == 1 or options.scheme == "none":
        return np.arange(len(labels))
    if place.of > len(labels):
        raise UserError(f"data.partition: {len(labels)} examples for {place.of} sites")
    # Hugging Face Datasets takes seconds to import; a deployed site has no use for it.
    from datasets import Dataset

    order = np.random.default_rng(seed).permutation(len(labels))
    columns: dict[str, list[int] | list[str]] = {
        "row": order.tolist(),
        "label": labels[order].tolist(),
    }
    if options.scheme == "natural":
        columns["natural"] = _natural(options, natural, place)[order].tolist()
    partitioner = _partitioner(options, labels, place, seed)
    partitioner.dataset = Dataset.from_dict(columns)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")  # each retry of a draw warns; the last one raises
            chosen = partitioner.load_partition(place.number)
    except ValueError as error:
        raise UserError(f"data.partition ({options.scheme}): {error}") from error
    return np.sort(np.asarray(chosen["row"], dtype=np.int64))


def _natural(
    options: PartitionOptions, natural: NDArray[np.str_] | None, place: Place
) -> NDArray[np.str_]:
    if natural is None:
        raise UserError("data.partition.scheme: 'natural' needs a manifest with a column to go by")
    values = sorted(set(natural.tolist()))
    if place.of > len(values):
        raise UserError(
            f"data.partition: column {options.column!r} has {len(values)} values for {place.of} "
            f"sites: start fewer, with --federation-config 'num-supernodes={len(values)}'"
        )
    return natural


def _partitioner(
    options: PartitionOptions, labels: NDArray[np.int64], place: Place, seed: int
) -> Partitioner:
    from flwr_datasets import partitioner as flower

    if options.scheme == "iid":
        return flower.IidPartitioner(place.of)
    if options.scheme == "natural":
        return flower.NaturalIdPartitioner("natural")
    if options.scheme == "dirichlet":
        return flower.DirichletPartitioner(
            place.of,
            "label",
            alpha=options.alpha,
            min_partition_size=options.smallest,
            self_balancing=False,
            seed=seed,
        )
    _refuse_unused_classes(options, labels, place)
    return flower.PathologicalPartitioner(
        place.of,
        "label",
        options.classes_per_site,
        class_assignment_mode="deterministic",
        seed=seed,
    )


def _refuse_unused_classes(
    options: PartitionOptions, labels: NDArray[np.int64], place: Place
) -> None:
    """Site ``i`` gets the classes ``i``, ``i + 1``, ...: too few sites leave classes to nobody."""
    kinds = len(np.unique(labels))
    if place.of + options.classes_per_site - 1 < kinds:
        raise UserError(
            f"data.partition: {place.of} sites with {options.classes_per_site} classes each leave "
            f"some of the {kinds} classes unused: use "
            f"data.partition.classes_per_site={kinds - place.of + 1} or more"
        )
