"""Rows of a split are the same examples as in the whole, under a digest of their own."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.training.data import ArrayInputs, Split, Subset

PICTURES = np.random.default_rng(0).integers(0, 256, (12, 4, 4, 3), dtype=np.uint8)
WHOLE = Split(ArrayInputs(PICTURES, (0.5,) * 3, (0.25,) * 3), np.arange(12) % 3)
SOME_ROWS = st.lists(st.integers(0, 11), max_size=12).map(lambda rows: np.array(rows, np.int64))


@given(SOME_ROWS)
def test_rows_are_those_of_the_whole_in_their_order(rows) -> None:
    part = WHOLE.take(rows)
    assert len(part) == len(part.inputs) == len(rows)
    assert part.labels.tolist() == (rows % 3).tolist()
    backwards = np.arange(len(rows))[::-1]
    assert part.inputs.batch(backwards).equal(WHOLE.inputs.batch(rows[::-1]))


@given(SOME_ROWS, SOME_ROWS)
def test_the_digest_tells_rows_apart_and_is_never_the_whole_s(one, other) -> None:
    digests = [Subset(WHOLE.inputs, rows).digest() for rows in (one, other)]
    assert (digests[0] == digests[1]) == (one.tolist() == other.tolist())
    assert WHOLE.inputs.digest() not in digests


def test_the_digest_follows_the_whole_and_all_rows_are_not_the_whole() -> None:
    rows = np.arange(12)
    darker = Subset(ArrayInputs(PICTURES // 2, (0.5,) * 3, (0.25,) * 3), rows)
    assert darker.digest() != Subset(WHOLE.inputs, rows).digest() != WHOLE.inputs.digest()


def test_rows_of_rows_and_rows_that_do_not_exist() -> None:
    part = WHOLE.take(np.array([2, 5, 7, 11])).take(np.array([3, 1]))
    assert part.inputs.batch(np.arange(2)).equal(WHOLE.inputs.batch(np.array([11, 5])))
    with pytest.raises(IndexError):
        WHOLE.take(np.array([12]))


def test_what_was_hashed_once_is_not_hashed_again_and_cannot_change() -> None:
    inputs = ArrayInputs(PICTURES.copy())
    digest = inputs.digest()
    assert inputs.digest() is digest
    with pytest.raises(ValueError, match="read-only"):
        inputs.values[0] = 0
    assert ArrayInputs(PICTURES // 2).digest() != digest == ArrayInputs(PICTURES.copy()).digest()
