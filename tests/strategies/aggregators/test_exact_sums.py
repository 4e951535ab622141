"""Sums are those of integers, whichever of both dtypes their memory has."""

import numpy as np
import pytest
import torch

from strategies.aggregators.blocks import BLOCK
from strategies.aggregators.exact_sums import EXACT, SMALL, ExactSums

SIZE = BLOCK + SMALL
FIRST, SECOND = slice(0, BLOCK), slice(BLOCK, SIZE)


def add(sums, span, value):
    part = sums.to_add(span, abs(value))
    np.add(part, np.asarray(value).astype(part.dtype), out=part)


def test_a_block_is_float64_until_its_sums_could_be_inexact():
    sums = ExactSums(SIZE)
    add(sums, FIRST, EXACT - 2.0)
    add(sums, FIRST, 1.0)
    assert sums.of(FIRST).dtype == np.float64
    add(sums, FIRST, 1.0)
    add(sums, FIRST, 2.0**53)
    add(sums, FIRST, 1.0)
    add(sums, SECOND, -3.0)
    assert sums.of(FIRST).dtype == np.int64
    assert sums.of(SECOND).dtype == np.float64
    assert (sums.of(FIRST) == 2**52 + 2**53 + 1).all()
    assert (sums.of(SECOND) == -3).all()
    assert (sums.integers()[SECOND] == -3).all()


@pytest.mark.parametrize("largest", [np.inf, np.nan])
def test_what_is_no_number_makes_integers(largest):
    sums = ExactSums(SIZE)
    add(sums, FIRST, 5.0)
    assert sums.to_add(FIRST, largest).dtype == np.int64
    assert (sums.of(FIRST) == 5).all()


def test_after_integers_are_asked_for_all_stay_so():
    sums = ExactSums(SIZE)
    add(sums, SECOND, 7.0)
    assert (sums.integers() == np.repeat([0, 7], [BLOCK, SMALL])).all()
    assert not sums.are_floats(FIRST)
    add(sums, SECOND, 1.0)
    assert (sums.integers()[SECOND] == 8).all()


def test_few_numbers_are_integers_at_once():
    assert not ExactSums(SMALL - 1).are_floats(slice(0, SMALL - 1))
    assert ExactSums(0).integers().size == 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_values_that_are_held_outlast_the_sums_of_the_blocks_before(dtype):
    sums = ExactSums(SIZE)
    values = torch.arange(SIZE).to(dtype)
    sums.hold(values)
    assert torch.equal(sums.held(dtype), values)
    sums.clear(FIRST)
    add(sums, FIRST, -1.0)
    assert torch.equal(sums.held(dtype)[SECOND], values[SECOND])
    sums.clear(SECOND)
    assert (sums.integers() == np.repeat([-1, 0], [BLOCK, SMALL])).all()
