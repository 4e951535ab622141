"""The examples of several sites as those of one, in one array or one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from client_app.feature_cache import Features
from models.training.data import ArrayInputs, Inputs, Split


@dataclass(frozen=True)
class Pool:
    """Inputs of several sites, one after the other.

    Parameters
    ----------
    parts : tuple of Split
        The sites' splits.
    """

    parts: tuple[Split, ...]

    @cached_property
    def ends(self) -> NDArray[np.int64]:
        """The number of rows up to the end of each part."""
        return np.cumsum([len(part) for part in self.parts])

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    def batch(self, indices: NDArray[np.int64]) -> Tensor:
        """Return the inputs at ``indices``, in that order."""
        owners = np.searchsorted(self.ends, indices, side="right")
        out: Tensor | None = None
        for owner in np.unique(owners):
            places = np.flatnonzero(owners == owner)
            part = self.parts[owner]
            first = int(self.ends[owner]) - len(part)
            rows = part.inputs.batch(indices[places] - first)
            if out is None:
                out = rows.new_empty((len(indices), *rows.shape[1:]))
            out[torch.from_numpy(places)] = rows
        assert out is not None
        return out

    def digest(self) -> str:
        """Return the digests of the parts, joined."""
        return "+".join(part.inputs.digest() for part in self.parts)


def pooled(parts: Sequence[Split]) -> Inputs:
    """Return the inputs of ``parts`` one after the other, in one array where that is possible."""
    inputs = [part.inputs for part in parts]
    if all(isinstance(each, Features) for each in inputs):
        values = np.concatenate([each.values for each in inputs])  # type: ignore[attr-defined]
        return ArrayInputs(values.astype(np.float32, copy=False))
    arrays = [each for each in inputs if isinstance(each, ArrayInputs)]
    if len(arrays) == len(inputs) and len({(each.mean, each.std) for each in arrays}) == 1:
        values = np.concatenate([each.values for each in arrays])
        return ArrayInputs(values, arrays[0].mean, arrays[0].std)
    return Pool(tuple(parts))
