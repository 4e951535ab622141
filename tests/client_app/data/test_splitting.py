"""Splits are disjoint, stratified and repeatable; copies and neighbors stay in one split."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client_app.data.splitting import (
    block_splits,
    check_fractions,
    sample_per_class,
    stratified_splits,
)
from fedstrata.support.errors import UserError

labels_strategy = st.lists(st.integers(0, 3), min_size=1, max_size=120).map(np.array)
shares = st.tuples(st.floats(0.05, 0.4), st.floats(0.05, 0.4))


@given(labels_strategy, shares, st.integers(0, 9))
def test_stratified_covers_everything_once_with_equal_shares(labels, share, seed) -> None:
    validation, test = share
    parts = stratified_splits(labels, validation=validation, test=test, seed=seed)
    assert sorted(np.concatenate(parts)) == list(range(len(labels)))
    again = stratified_splits(labels, validation=validation, test=test, seed=seed)
    assert all((one == other).all() for one, other in zip(parts, again, strict=True))
    for kind in np.unique(labels):
        members = np.sum(labels == kind)
        assert abs(np.sum(labels[parts.test] == kind) - members * test) <= 0.5 + 1e-9
        assert abs(np.sum(labels[parts.validation] == kind) - members * validation) <= 0.5 + 1e-9


@given(labels_strategy, st.integers(0, 9), st.data())
def test_copies_stay_in_one_split(labels, seed, data) -> None:
    copies = np.array(
        data.draw(st.lists(st.integers(0, 20), min_size=len(labels), max_size=len(labels)))
    )
    parts = stratified_splits(labels, validation=0.2, test=0.3, seed=seed, copies=copies)
    sides = [set(copies[part].tolist()) for part in parts]
    assert sorted(np.concatenate(parts)) == list(range(len(labels)))
    assert not (sides[0] & sides[1])
    assert not (sides[0] & sides[2])
    assert not (sides[1] & sides[2])


def test_the_seed_changes_the_draw() -> None:
    labels = np.zeros(50, dtype=np.int64)
    one, two = (stratified_splits(labels, validation=0.2, test=0.2, seed=seed) for seed in (1, 2))
    assert one.test.tolist() != two.test.tolist()


@given(labels_strategy, shares)
def test_blocks_never_have_neighbors(labels, share) -> None:
    parts = block_splits(labels, validation=share[0], test=share[1])
    side = np.full(len(labels), -1)
    for number, part in enumerate(parts):
        side[part] = number
    pairs = np.stack([side[:-1], side[1:]])
    kept = (pairs >= 0).all(axis=0)
    assert (pairs[0, kept] == pairs[1, kept]).all()
    assert len(np.concatenate(parts)) == len(set(np.concatenate(parts).tolist()))


def test_blocks_of_one_recording_are_in_order_with_a_gap() -> None:
    parts = block_splits(np.zeros(20, dtype=np.int64), validation=0.2, test=0.3)
    assert parts.train.tolist() == list(range(8))
    assert parts.validation.tolist() == [9, 10, 11, 12]
    assert parts.test.tolist() == list(range(14, 20))


@pytest.mark.parametrize("pair", [(0.0, 0.2), (0.2, 1.0), (0.5, 0.5), (float("nan"), 0.2)])
def test_fractions_must_leave_something_for_each_split(pair) -> None:
    with pytest.raises(UserError, match="fraction"):
        check_fractions(*pair)


@given(st.lists(st.integers(0, 4), max_size=60), st.integers(1, 8), st.integers(0, 99))
def test_a_larger_sample_per_class_contains_the_smaller_one(kinds, most, seed) -> None:
    labels = np.array(kinds, dtype=np.int64)
    rows = sample_per_class(labels, most, seed)
    assert rows.dtype == np.int64
    assert rows.tolist() == sorted(set(rows.tolist()))
    there, drawn = np.bincount(labels, minlength=5), np.bincount(labels[rows], minlength=5)
    assert drawn.tolist() == np.minimum(there, most).tolist()
    assert rows.tolist() == sample_per_class(labels, most, seed).tolist()
    assert set(rows) <= set(sample_per_class(labels, most + 1, seed))


def test_a_sample_per_class_is_random() -> None:
    labels = np.zeros(100, dtype=np.int64)
    one, other = (sample_per_class(labels, 10, seed).tolist() for seed in (1, 2))
    assert one != other
    assert max(one) > 20
