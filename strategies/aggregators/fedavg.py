"""The mean of the updates, weighted by examples and summed as they arrive."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from strategies.aggregators.base import Aggregator, Tensors, copied
from strategies.aggregators.blocks import (
    BLOCK,
    Block,
    flat,
    made_of_blocks,
    numbers,
    on_all_cores,
    scratch,
)

MAX_MAGNITUDE = 2.0**24
"""The largest magnitude of a value that may be added; an update with a larger one is rejected."""

EXAMPLES_SLACK = 2
"""A site may report up to this many times the examples that were expected of it."""

_MAGNITUDE_BITS = 24
_INT64_BITS = 63


def shift_of(expected: int) -> int:
    """Return s such that sums of n_k * w_k * 2**s fit into 64 bits; see `FedAvg`.

    Parameters
    ----------
    expected : int
        The examples expected of all sites asked.

    Raises
    ------
    ValueError
        For 2**48 examples or more.
    """
    limit = EXAMPLES_SLACK * expected
    if limit >= EXAMPLES_SLACK << 48:
        raise ValueError(f"{expected} examples expected, must be below 2**48")
    return _INT64_BITS - _MAGNITUDE_BITS - limit.bit_length()


def largest_sum(examples: int, expected: int) -> float:
    """Return the largest magnitude of a sum over updates with ``examples`` together.

    Parameters
    ----------
    examples, expected : int
        Of the sites in the sum, and of all sites asked.
    """
    return MAX_MAGNITUDE * examples * 2.0 ** shift_of(expected)


class FixedPointSum:
    """The sum of n_k * w_k over updates, in 64-bit fixed point: multiples of 2**-shift.

    Integers add exactly. So partial sums, over the sites of a cohort, add up to the same bits as one
    sum over all sites.

    Parameters
    ----------
    shift : int
        As `shift_of` gives it.

    Attributes
    ----------
    tensors : dict of str to Tensor
        The sums so far: int64, of the updates' shapes; empty before the first.
    """

    def __init__(self, shift: int) -> None:
        self.shift = shift
        self.tensors: dict[str, Tensor] = {}

    def add(self, update: Tensors, examples: int) -> None:
        """Add ``examples`` times ``update``: floating point, finite, at most `MAX_MAGNITUDE`."""
        scale = examples * 2.0**self.shift
        values = {name: flat(tensor) for name, tensor in update.items()}
        totals = {name: flat(self._of(name, tensor)).numpy() for name, tensor in update.items()}

        def add(blocks: Iterator[Block]) -> None:
            products, cut = scratch(np.float64), scratch(np.int64)
            for name, span in blocks:
                given, sums = numbers(values[name][span]), totals[name][span]
                product, whole = products[: len(given)], cut[: len(given)]
                # In float64, whose 53 bits hold a float32 times up to 2**29 examples exactly.
                np.multiply(given, scale, out=product, dtype=np.float64)
                np.copyto(whole, product, casting="unsafe")  # towards zero
                np.add(sums, whole, out=sums)

        on_all_cores({name: len(tensor) for name, tensor in values.items()}, BLOCK, add)

    def add_stacked(self, updates: Tensors, examples: Mapping[int, int]) -> None:
        """Add rows of stacked updates as `add` adds each, to the same bits.

        Parameters
        ----------
        updates : mapping of str to Tensor
            Of shape ``(m, ...)``.
        examples : mapping of int to int
            Examples by row; other rows are left out.
        """
        rows = np.array(list(examples), dtype=np.intp)
        # A slice is a view, other rows are copied.
        in_order = bool((rows == np.arange(len(rows))).all())
        scales = np.array(list(examples.values()), dtype=np.float64)[:, None] * 2.0**self.shift
        values = {n: t.detach().reshape(len(t), t[0].numel()) for n, t in updates.items()}
        totals = {name: flat(self._of(name, t[0])).numpy() for name, t in updates.items()}

        def add(blocks: Iterator[Block]) -> None:
            products, cut = scratch(np.float64), scratch(np.int64)
            for name, span in blocks:
                sums, width = totals[name][span], span.stop - span.start
                for start in range(0, len(rows), BLOCK // width):
                    part = slice(start, min(start + BLOCK // width, len(rows)))
                    given = numbers(values[name][part if in_order else rows[part], span])
                    size = len(given) * width
                    product = products[:size].reshape(-1, width)
                    whole = cut[:size].reshape(-1, width)
                    np.multiply(given, scales[part], out=product, dtype=np.float64)
                    np.copyto(whole, product, casting="unsafe")  # towards zero
                    np.add(sums, whole.sum(axis=0), out=sums)

        on_all_cores({name: tensor.shape[1] for name, tensor in values.items()}, BLOCK, add)

    def add_sums(self, sums: Tensors) -> None:
        """Add other sums: int64, of the same shift."""
        for name, tensor in sums.items():
            self._of(name, tensor).add_(tensor)

    def _of(self, name: str, like: Tensor) -> Tensor:
        if name not in self.tensors:
            self.tensors[name] = torch.zeros(like.shape, dtype=torch.int64)
        return self.tensors[name]


class FedAvg(Aggregator):
    """The mean over the K sites that answered, sum_k n_k/n * w_k (McMahan et al. 2017, alg. 1).

    Sums are in 64-bit fixed point: n_k * w_k is cut to a multiple of 2**-s and added as an integer.
    Integers add exactly, so any order of arrival and any number of threads give the same bits. With
    float sums two runs of one seed would differ, and a resumed run from an uninterrupted one.

    With N the examples expected of all sites asked, s = 39 - bit_length(2 * N). A site may report up
    to twice its expected examples. So the sum stays below MAX_MAGNITUDE * 2*N * 2**s < 2**63, and
    does not overflow.

    Each cut is off by less than 2**-s <= 4*N * 2**-39. So the absolute error of the mean is below
    K * 2**-37 * N/n, with n the examples of the sites that answered. For ten sites that is 7e-11; one
    float32 rounding of a weight near 1 is 3e-8. There are also float64 roundings, of relative size
    2**-53, and the rounding to the tensor's own dtype. Values far below 2**-37 average to zero.

    Memory: one int64 accumulator (two float32 models) and the update being added. The mean of one
    update is that update, bit for bit.
    """

    takes_sums: ClassVar[bool] = True

    def begin(self, current: Tensors, expected: Mapping[str, int]) -> None:
        """Start a round; see the base class. ValueError for 2**48 expected examples or more."""
        self._shift = shift_of(sum(expected.values()))
        super().begin(current, expected)

    def _reset(self) -> None:
        super()._reset()
        self._sum = FixedPointSum(0)
        self._only: tuple[Tensors, int] | None = None  # the first update, until there is a second

    def _fold(self, site: str, update: Tensors, examples: int) -> None:
        self._check_examples(site, examples)
        if not self._answered:
            self._only = (update, examples)
            return
        self._open_sum()
        self._sum.add(update, examples)

    def _fold_sum(self, sites: Mapping[str, int], sums: Tensors) -> None:
        for site, examples in sites.items():
            self._check_examples(site, examples)
        self._open_sum()
        self._sum.add_sums(sums)

    def _check_examples(self, site: str, examples: int) -> None:
        if examples > EXAMPLES_SLACK * self._expected[site]:
            raise ValueError(
                f"site {site!r} reports {examples} examples, {self._expected[site]} were expected; "
                f"at most {EXAMPLES_SLACK} times as many are allowed"
            )

    def _open_sum(self) -> None:
        """Start the sum if there is none yet, with the first update if there was one."""
        if not self._sum.tensors:
            self._sum = FixedPointSum(self._shift)
        if self._only is not None:
            self._sum.add(*self._only)
            self._only = None

    def _combine(self) -> dict[str, Tensor]:
        if self._only is not None:
            return copied(self._only[0])
        scale = sum(self._answered.values()) * 2.0**self._shift
        # One by one, and each sum is freed: sums and means together never need more than the sums.
        return {name: self._mean(name, tensor, scale) for name, tensor in self._current.items()}

    def _mean(self, name: str, like: Tensor, scale: float) -> Tensor:
        sums = flat(self._sum.tensors.pop(name)).numpy()

        def divide(blocks: Iterator[tuple[Block, Tensor]]) -> None:
            for (_, span), mean in blocks:
                mean.copy_(torch.from_numpy(np.divide(sums[span], scale)))

        return made_of_blocks({name: like}, BLOCK, divide)[name]
