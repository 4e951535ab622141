"""The mean of the updates, weighted by examples and summed as they arrive."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from strategies.aggregators.base import Aggregator, Tensors, copied
from strategies.aggregators.blocks import (
    BLOCK,
    Block,
    Numbers,
    flat,
    made_of_blocks,
    numbers,
    on_all_cores,
    scratch,
)
from strategies.aggregators.exact_sums import ExactSums

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

    Whole numbers add exactly. So partial sums, over the sites of a cohort, add up to the same bits as
    one sum over all sites. Memory: 8 bytes a number.

    Parameters
    ----------
    shift : int
        As `shift_of` gives it.
    """

    def __init__(self, shift: int) -> None:
        self.shift = shift
        self._sums: dict[str, ExactSums] = {}
        self._shapes: dict[str, torch.Size] = {}
        self._held: dict[str, torch.dtype] = {}  # the first update's, while it is held
        self._held_examples = 0

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The sums so far: int64, of the updates' shapes; empty before the first."""
        self._add_held()
        return {
            name: torch.from_numpy(sums.integers()).reshape(self._shapes[name])
            for name, sums in self._sums.items()
        }

    def hold(self, update: Tensors, examples: int) -> None:
        """Copy the first update to where the sums will be; it is added once there is another."""
        for name, tensor in update.items():
            self._of(name, tensor).hold(flat(tensor))
            self._held[name] = tensor.dtype
        self._held_examples = examples

    def held(self) -> dict[str, Tensor]:
        """Return a copy of the update that is held; empty after the second."""
        return {
            name: copied({name: self._sums[name].held(dtype)})[name].reshape(self._shapes[name])
            for name, dtype in self._held.items()
        }

    def add(self, update: Tensors, examples: int) -> None:
        """Add ``examples`` times ``update``: floating point, finite, at most `MAX_MAGNITUDE`."""
        self._add_held()
        scale = examples * 2.0**self.shift
        values = {name: flat(tensor) for name, tensor in update.items()}
        totals = {name: self._of(name, tensor) for name, tensor in update.items()}

        def add(blocks: Iterator[Block]) -> None:
            room = scratch(np.float64)
            for name, span in blocks:
                given = numbers(values[name][span])
                _add_cut(given, scale, totals[name], span, room[: len(given)])

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
        self._add_held()
        rows = np.array(list(examples), dtype=np.intp)
        # A slice is a view, other rows are copied.
        in_order = bool((rows == np.arange(len(rows))).all())
        scales = np.array(list(examples.values()), dtype=np.float64)[:, None] * 2.0**self.shift
        values = {n: t.detach().reshape(len(t), t[0].numel()) for n, t in updates.items()}
        totals = {name: self._of(name, t[0]).integers() for name, t in updates.items()}

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
        self._add_held()
        for name, tensor in sums.items():
            total = self._of(name, tensor).integers()
            np.add(total, flat(tensor).numpy(), out=total)

    def _add_held(self) -> None:
        """Turn the first update into sums, in its own memory: so block by block from the start."""
        scale, room = self._held_examples * 2.0**self.shift, scratch(np.float64)
        for name, dtype in self._held.items():
            total = self._sums[name]
            values = total.held(dtype)
            for start in range(0, total.size, BLOCK):
                span = slice(start, min(start + BLOCK, total.size))
                given = numbers(values[span])
                _add_cut(given, scale, total, span, room[: len(given)], clear=True)
        self._held = {}

    def pop(self, name: str) -> ExactSums:
        """Remove the sums of one tensor and return them."""
        del self._shapes[name]
        return self._sums.pop(name)

    def _of(self, name: str, like: Tensor) -> ExactSums:
        if name not in self._sums:
            self._sums[name], self._shapes[name] = ExactSums(like.numel()), like.shape
        return self._sums[name]


def _add_cut(
    given: Numbers,
    scale: float,
    total: ExactSums,
    span: slice,
    product: NDArray[np.float64],
    *,
    clear: bool = False,
) -> None:
    """Add ``given * scale``, cut towards zero, to a block; ``product`` is overwritten.

    With ``clear`` the block becomes zero before, once ``given`` has been read.
    """
    # In float64, whose 53 bits hold a float32 times up to 2**29 examples exactly.
    if total.are_floats(span):
        largest = max(-float(np.minimum.reduce(given)), float(np.maximum.reduce(given)))
        np.copyto(product, given)
        np.multiply(product, scale, out=product)
    else:
        largest = math.inf
        np.multiply(given, scale, out=product, dtype=np.float64)
    if clear:
        total.clear(span)
    sums = total.to_add(span, scale * largest)
    if sums.dtype == np.float64:
        whole: Numbers = np.trunc(product, out=product)
    else:
        whole = product.view(np.int64)  # each number is read before it is overwritten
        np.copyto(whole, product, casting="unsafe")
    np.add(sums, whole, out=sums)


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

    Memory: the sums, which are two float32 models, and the update being added. The first update is
    copied to where the sums will be. The mean of one update is that update, bit for bit.
    """

    takes_sums: ClassVar[bool] = True

    def begin(self, current: Tensors, expected: Mapping[str, int]) -> None:
        """Start a round; see the base class. ValueError for 2**48 expected examples or more."""
        self._shift = shift_of(sum(expected.values()))
        super().begin(current, expected)

    def _reset(self) -> None:
        super()._reset()
        self._sum = FixedPointSum(0)

    def _fold(self, site: str, update: Tensors, examples: int) -> None:
        self._check_examples(site, examples)
        if self._answered:
            self._sum.add(update, examples)
            return
        self._sum = FixedPointSum(self._shift)
        self._sum.hold(update, examples)

    def _fold_sum(self, sites: Mapping[str, int], sums: Tensors) -> None:
        for site, examples in sites.items():
            self._check_examples(site, examples)
        if not self._answered:
            self._sum = FixedPointSum(self._shift)
        self._sum.add_sums(sums)

    def _check_examples(self, site: str, examples: int) -> None:
        if examples > EXAMPLES_SLACK * self._expected[site]:
            raise ValueError(
                f"site {site!r} reports {examples} examples, {self._expected[site]} were expected; "
                f"at most {EXAMPLES_SLACK} times as many are allowed"
            )

    def _combine(self) -> dict[str, Tensor]:
        if len(self._answered) == 1 and (only := self._sum.held()):
            return only
        scale = sum(self._answered.values()) * 2.0**self._shift
        # One by one, and each sum is freed: sums and means together never need more than the sums.
        return {name: self._mean(name, tensor, scale) for name, tensor in self._current.items()}

    def _mean(self, name: str, like: Tensor, scale: float) -> Tensor:
        sums = self._sum.pop(name)

        def divide(blocks: Iterator[tuple[Block, Tensor]]) -> None:
            for (_, span), mean in blocks:
                mean.copy_(torch.from_numpy(np.divide(sums.of(span), scale)))

        return made_of_blocks({name: like}, BLOCK, divide)[name]
