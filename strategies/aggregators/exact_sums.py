"""Sums of whole numbers, 8 bytes each: float64 as long as that is exact, int64 from then on."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from strategies.aggregators.blocks import BLOCK

EXACT = 2.0**52
"""Half of where float64 begins to leave out whole numbers: the bound of a sum is rounded itself."""

SMALL = 1 << 12
"""Below so many numbers a step's overhead counts more than its pass: integers need fewer steps."""


@dataclass
class ExactSums:
    """The sums of one tensor's numbers, in blocks of `BLOCK`, zero at first.

    float64 adds whole numbers below 2**53 exactly, and cutting to them there is faster than to
    integers. So a block is float64 until a bound of its sums reaches `EXACT`, and then int64, in the
    same memory. Which of both it is changes no value. One thread may work on a block at a time.

    Parameters
    ----------
    size : int
        How many.
    """

    size: int
    _memory: NDArray[np.int64] = field(init=False, repr=False)
    _floats: NDArray[np.float64] = field(init=False, repr=False)
    _bounds: list[float] = field(init=False, repr=False)  # of each block; infinite: it is int64

    def __post_init__(self) -> None:
        self._memory = np.zeros(self.size, np.int64)  # 0.0 has the same bits
        self._floats = self._memory.view(np.float64)
        blocks = -(-self.size // BLOCK)
        self._bounds = [math.inf if self.size < SMALL else 0.0] * blocks

    def of(self, span: slice) -> NDArray[Any]:
        """Return the sums of the block ``span``, to read: float64 or int64."""
        exact = self._bounds[span.start // BLOCK] < EXACT
        return self._floats[span] if exact else self._memory[span]

    def are_floats(self, span: slice) -> bool:
        """Return whether the block ``span`` is still float64."""
        return bool(self._bounds[span.start // BLOCK] < EXACT)

    def to_add(self, span: slice, largest: float) -> NDArray[Any]:
        """Return the sums of a block, to add numbers to that are no larger than ``largest``."""
        number = span.start // BLOCK
        if self._bounds[number] < EXACT:
            self._bounds[number] += largest
            if not self._bounds[number] < EXACT:  # NaN, too
                self._to_integers(number)
        return self.of(span)

    def clear(self, span: slice) -> None:
        """Set the sums of the block ``span`` to zero."""
        self._memory[span] = 0

    def hold(self, values: Tensor) -> None:
        """Copy ``values``, of at most 8 bytes each, to the end of this memory, before any sum.

        Sums of the first blocks may be cleared and added to while later values are `held`, since a
        sum is at least as wide as a value.
        """
        self.held(values.dtype).copy_(values)

    def held(self, dtype: torch.dtype) -> Tensor:
        """Return the values that `hold` has copied here: a view, of their ``dtype``."""
        raw = self._memory.view(np.uint8)[self.size * (8 - dtype.itemsize) :]
        return torch.from_numpy(raw).view(dtype)

    def integers(self) -> NDArray[np.int64]:
        """Return all sums as int64, which they are from now on."""
        for number, bound in enumerate(self._bounds):
            if bound < EXACT:
                self._to_integers(number)
        return self._memory

    def _to_integers(self, number: int) -> None:
        span = slice(number * BLOCK, (number + 1) * BLOCK)
        self._memory[span] = self._floats[span].astype(np.int64)
        self._bounds[number] = math.inf
