"""The class means of a round as points to learn from, with the influence of one site limited."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor

from strategies.aggregators.base import Tensors
from strategies.aggregators.fedavg import MAX_MAGNITUDE
from strategies.config import TeacherConfig

PROTOTYPES = "prototypes"
SUMS, COUNTS = "extras.sums", "extras.counts"
FEWEST = 3  # sites: of two nobody can say which one is wrong


def means_of(sums: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean of each class ``(classes, width)``, and which have one, bool ``(classes,)``.

    Means of the others are 0. A class whose mean is not finite has none.
    """
    means = sums / counts.clamp(min=torch.finfo(counts.dtype).tiny)[:, None]
    there = (counts > 0) & means.isfinite().all(1)
    return torch.where(there[:, None], means, torch.zeros_like(means)), there


class Points(NamedTuple):
    """Class means, float64 ``(n, d)``, the class of each, and its weight."""

    means: Tensor
    classes: Tensor
    weights: Tensor


def points_of(sent: Tensors, examples: int = 1) -> Points:
    """Return a point for each class of what was sent: its mean, weighted by its examples.

    ``examples`` is how many the sender counts as. What is sent is not trusted: counts below 0 are
    none, and all of them together are at most 1. A mean above ``MAX_MAGNITUDE`` is left out.
    """
    counts = sent[COUNTS].double().clamp(min=0)
    shares = counts / max(float(counts.sum()), 1.0)
    means = sent[SUMS].double() / counts[:, None]
    # NaN of a class that nobody has is in no comparison.
    (there,) = torch.nonzero(means.abs().amax(1) <= MAX_MAGNITUDE, as_tuple=True)
    return Points(means[there], there, shares[there] * examples)


def joined(points: list[Points]) -> Points:
    """Return all points, one after the other."""
    return Points(*(torch.cat(each) for each in zip(*points, strict=True)))


def limited(of_each: Mapping[str, Points], bounds: TeacherConfig) -> tuple[Points, list[str]]:
    """Return the points of all sites, of which none counts for too much, and what was done.

    Parameters
    ----------
    of_each : mapping of str to Points
        By site.
    bounds : TeacherConfig
        With ``clip``, a mean is shortened to at most ``clip`` times the median over the sites of the
        median norm of a site's means. With ``median``, a class has one point: the coordinate-wise
        median of the sites that have it, with their weights together.
    """
    there = {site: points for site, points in of_each.items() if len(points.classes)}
    if bounds.influence == "median" and there:
        return _median(joined(list(there.values())))
    if bounds.influence == "clip" and len(there) >= FEWEST:
        there, notes = _clipped(there, bounds.clip)
        return joined(list(there.values())), notes
    return joined(list(of_each.values())), []


def _clipped(of_each: dict[str, Points], factor: float) -> tuple[dict[str, Points], list[str]]:
    norms = {site: torch.linalg.vector_norm(each.means, dim=1) for site, each in of_each.items()}
    middle = median(float(each.median()) for each in norms.values())
    most = factor * middle
    made, notes = {}, []
    for site, points in of_each.items():
        long = norms[site] > most
        scale = torch.where(long, most / norms[site].clamp(min=1e-300), 1.0)
        made[site] = points._replace(means=points.means * scale[:, None])
        if count := int(long.sum()):
            notes.append(
                f"{count} of {len(long)} class means of {site} are cut to the norm {most:.4g}, "
                f"{factor:g} times the median (strategy.teacher.clip)"
            )
    return made, notes


def _median(points: Points) -> tuple[Points, list[str]]:
    means, weights, few = [], [], 0
    classes: Tensor = torch.unique(points.classes)
    for each in classes:
        mine = points.classes == each
        rows = points.means[mine].sort(dim=0).values
        few += len(rows) < FEWEST
        means.append((rows[(len(rows) - 1) // 2] + rows[len(rows) // 2]) / 2)
        weights.append(points.weights[mine].sum())
    notes = []
    if few:
        notes.append(
            f"{few} of {len(classes)} classes are at fewer than {FEWEST} sites: their median is a mean"
        )
    return Points(torch.stack(means), classes, torch.stack(weights)), notes
