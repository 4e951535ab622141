"""Krum and multi-Krum: the updates that are closest to their neighbors."""

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

    Of n updates f may be malicious. The score of an update is the sum of its squared Euclidean
    distances to the n-f-2 nearest others, over all tensors of the group. The ``num_to_keep`` updates
    with the lowest scores are averaged without weights. Equal scores are ordered by site name.

    The state does not change with fewer than 2f+3 updates, which is the paper's condition. Nor does
    it with fewer than ``num_to_keep`` + f, for then one of the malicious could be kept. ``note`` says
    so.
    """

    options_type: ClassVar[type[Options]] = KrumOptions
    robust = True

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
        # One update is copied: a mean of one in float64, rounded again, is the same but slower.
        return replies.reduced(kept, _only if len(kept) == 1 else _mean)

    def _too_few(self, count: int) -> str:
        """Return how many updates are needed and why, or "" if ``count`` is enough."""
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

    They are computed from inner products of ``update - origin``. The origin is the state that the
    sites started from, so honest offsets are small. A huge update costs only its own distances their
    precision, not those between others.

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
