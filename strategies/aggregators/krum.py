"""Krum and multi-Krum: keep the updates that lie closest to their neighbours."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from strategies.aggregators.base import Options, Tensors, copied, flat, require, spans
from strategies.aggregators.held import HoldingAggregator, reduce_blockwise


@dataclass(frozen=True)
class KrumOptions(Options):
    """See conf/aggregator/krum.yaml."""

    num_malicious: int
    num_to_keep: int

    def check(self, where: str) -> None:
        """Raise UserError for a value out of its range."""
        malicious, keep = self.num_malicious, self.num_to_keep
        require(malicious >= 0, f"{where}.num_malicious", "at least 0", malicious)
        require(keep >= 1, f"{where}.num_to_keep", "at least 1", keep)


class Krum(HoldingAggregator):
    """Krum, and multi-Krum where ``num_to_keep`` is above 1 (Blanchard et al. 2017, section 4).

    Of n updates, f of them possibly malicious, each is scored by the sum of its squared Euclidean
    distances to the n-f-2 nearest others, over all tensors of the group. The ``num_to_keep`` lowest
    scores are kept (equal ones by site name) and averaged without weights; one is copied.

    Fewer than 2f+3 updates (the paper's condition), or fewer than ``num_to_keep`` + f (one would
    have to be kept that nobody vouches for), leave the state as it was, and ``note`` says so.
    Holds every reply.
    """

    def __init__(self, options: KrumOptions) -> None:
        super().__init__()
        self.options = options

    def _combine(self) -> dict[str, Tensor] | None:
        updates, f = self._by_site(), self.options.num_malicious
        if reason := self._too_few(len(updates)):
            self.note = f"krum needs at least {reason} updates, got {len(updates)}: state kept"
            return None
        scores = krum_scores(squared_distances(list(updates.values()), self._current), f)
        ranked = sorted(zip(scores.tolist(), updates, strict=True))
        kept = {site: updates[site] for _, site in sorted(ranked[: self.options.num_to_keep])}
        self.note = f"krum kept {len(kept)} of {len(updates)} updates: {', '.join(sorted(kept))}"
        if len(kept) == 1:
            return copied(next(iter(kept.values())))
        return reduce_blockwise(kept, lambda values: values.double().mean(dim=0))

    def _too_few(self, count: int) -> str:
        """Return how many updates are needed and why, or "" where ``count`` of them are enough."""
        f, keep = self.options.num_malicious, self.options.num_to_keep
        if count < 2 * f + 3:
            return f"2*f+3 = {2 * f + 3}"
        return f"num_to_keep+f = {keep + f}" if count < keep + f else ""


def squared_distances(updates: list[Tensors], origin: Tensors) -> Tensor:
    """Return the squared Euclidean distances between n updates: float64, shape ``(n, n)``.

    They come from inner products of ``update - origin``. With the state the sites started from as
    the origin, no update can spoil, by its own size, the precision of distances between others.

    Parameters
    ----------
    updates : list of Tensors
        Alike in names and shapes.
    origin : Mapping of str to Tensor
        A point near the honest updates.
    """
    products = torch.zeros(len(updates), len(updates), dtype=torch.float64)
    for name, start in origin.items():
        centre = flat(start)
        sources = [flat(update[name]) for update in updates]
        for span in spans(len(centre), rows=len(sources)):
            offsets = torch.stack([source[span] for source in sources]).double()
            offsets -= centre[span].double()
            products += offsets @ offsets.t()
    squares = products.diagonal()
    return (squares[:, None] + squares[None, :] - 2 * products).clamp_(min=0)


def krum_scores(distances: Tensor, num_malicious: int) -> Tensor:
    """Return each update's sum of distances to its n-f-2 nearest others, shape ``(n,)``."""
    others = distances.clone().fill_diagonal_(inf)
    return others.sort(dim=1).values[:, : len(distances) - num_malicious - 2].sum(dim=1)
