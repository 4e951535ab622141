"""Krum and multi-Krum: keep the updates that lie closest to their neighbours."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from strategies.aggregators.base import Options, Tensors, require
from strategies.aggregators.blocks import Numbers, flat, numbers
from strategies.aggregators.buffered import BufferedAggregator, BufferedOptions
from strategies.aggregators.reply_buffer import ReplyBuffer


@dataclass(frozen=True)
class KrumOptions(BufferedOptions):
    """See conf/aggregator/krum.yaml."""

    num_malicious: int
    num_to_keep: int

    def check(self, where: str) -> None:
        """Raise UserError for a value out of its range."""
        super().check(where)
        malicious, keep = self.num_malicious, self.num_to_keep
        require(malicious >= 0, f"{where}.num_malicious", "at least 0", malicious)
        require(keep >= 1, f"{where}.num_to_keep", "at least 1", keep)


class Krum(BufferedAggregator):
    """Krum, and multi-Krum where ``num_to_keep`` is above 1 (Blanchard et al. 2017, section 4).

    Of n updates, f of them possibly malicious, each is scored by the sum of its squared Euclidean
    distances to the n-f-2 nearest others, over all tensors of the group. The ``num_to_keep`` lowest
    scores are kept (equal ones by site name) and averaged without weights; one is copied.

    Fewer than 2f+3 updates (the paper's condition), or fewer than ``num_to_keep`` + f (one would
    have to be kept that nobody vouches for), leave the state as it was, and ``note`` says so.
    Needs every reply.
    """

    options_type: ClassVar[type[Options]] = KrumOptions

    def __init__(self, options: KrumOptions) -> None:
        super().__init__(options)
        self.options = options

    def _combine(self) -> dict[str, Tensor] | None:
        replies, f = self._replies, self.options.num_malicious
        if reason := self._too_few(len(replies)):
            self.note = f"krum needs at least {reason} updates, got {len(replies)}: state kept"
            return None
        scores = krum_scores(squared_distances(replies, self._current), f)
        ranked = sorted(zip(scores.tolist(), replies.sites, strict=True))
        kept = sorted(site for _, site in ranked[: self.options.num_to_keep])
        self.note = f"krum kept {len(kept)} of {len(replies)} updates: {', '.join(kept)}"
        return replies.reduced(kept, _only if len(kept) == 1 else _mean)

    def _too_few(self, count: int) -> str:
        """Return how many updates are needed and why, or "" where ``count`` of them are enough."""
        f, keep = self.options.num_malicious, self.options.num_to_keep
        if count < 2 * f + 3:
            return f"2*f+3 = {2 * f + 3}"
        return f"num_to_keep+f = {keep + f}" if count < keep + f else ""


def _only(rows: Numbers) -> Numbers:
    only: Numbers = rows[0]
    return only


def _mean(rows: Numbers) -> Numbers:
    mean: Numbers = rows.mean(axis=0, dtype=np.float64)
    return mean


def squared_distances(replies: ReplyBuffer, origin: Tensors) -> Tensor:
    """Return the squared Euclidean distances between n updates: float64, shape ``(n, n)``.

    They come from inner products of ``update - origin``. With the state the sites started from as
    the origin, no update can spoil, by its own size, the precision of distances between others.

    Parameters
    ----------
    replies : ReplyBuffer
        The updates; rows and columns are in the order of their sites.
    origin : Mapping of str to Tensor
        A point near the honest updates.
    """
    products = np.zeros((len(replies), len(replies)))
    room = np.empty(0)
    for name, span, rows in replies.blocks(replies.sites):
        if room.size < rows.size:
            room = np.empty(rows.size)
        offsets = room[: rows.size].reshape(rows.shape)
        np.subtract(rows, numbers(flat(origin[name])[span]), out=offsets, dtype=np.float64)
        products += offsets @ offsets.T  # numpy sees the symmetry, and does half of the products
    squares = products.diagonal()
    distances = squares[:, None] + squares[None, :] - 2 * products
    return torch.from_numpy(distances.clip(min=0))


def krum_scores(distances: Tensor, num_malicious: int) -> Tensor:
    """Return each update's sum of distances to its n-f-2 nearest others, shape ``(n,)``."""
    others = distances.clone().fill_diagonal_(inf)
    return others.sort(dim=1).values[:, : len(distances) - num_malicious - 2].sum(dim=1)
