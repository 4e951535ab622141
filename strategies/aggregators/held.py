"""What the robust aggregators share: they hold every reply until the round ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from torch import Tensor

from strategies.aggregators.base import Aggregator, Tensors, flat, spans


class HoldingAggregator(Aggregator):
    """Holds the updates, by site, until ``finish``: memory grows with the number of sites.

    A site weighs the same whatever number of examples it reports, for that number is the site's
    own word. The updates are worked on in the order of the sites' names.
    """

    needs_all: ClassVar[bool] = True

    def _reset(self) -> None:
        super()._reset()
        self._updates: dict[str, Tensors] = {}

    def _fold(self, site: str, update: Tensors, examples: int) -> None:
        self._updates[site] = update

    def _by_site(self) -> dict[str, Tensors]:
        return dict(sorted(self._updates.items()))


def reduce_blockwise(
    updates: Mapping[str, Tensors], reduce: Callable[[Tensor], Tensor]
) -> dict[str, Tensor]:
    """Return the tensors whose elements ``reduce`` makes of the same elements of all ``updates``.

    Parameters
    ----------
    updates : Mapping of str to Tensors
        n updates alike in names, shapes and dtypes, by site.
    reduce : callable
        Takes shape ``(n, b)`` in the tensor's dtype, returns ``(b,)`` in any floating dtype.
    """
    first = next(iter(updates.values()))
    reduced = {}
    for name, tensor in first.items():
        reduced[name] = torch.empty(tensor.shape, dtype=tensor.dtype)
        values = flat(reduced[name])
        sources = [flat(update[name]) for update in updates.values()]
        for span in spans(len(values), rows=len(sources)):
            values[span] = reduce(torch.stack([source[span] for source in sources]))
    return reduced
