"""Ascending numbers as bytes: there and back, in the length that was promised, or refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fedstrata.protocol.elias_fano import PackingError, pack, packed_bytes, unpack

SETS = st.integers(1, 400).flatmap(
    lambda bound: st.tuples(
        st.sets(st.integers(0, bound - 1), min_size=1, max_size=bound), st.just(bound)
    )
)


def numbers(places: set[int] | range) -> np.ndarray:
    return np.array(sorted(places), dtype=np.int64)


@given(SETS)
@example(({0}, 1))
@example(({399}, 400))
@example((set(range(400)), 400))
def test_there_and_back_in_the_promised_length(drawn: tuple[set[int], int]) -> None:
    places, bound = drawn
    data = pack(numbers(places), bound)
    assert data.shape == (packed_bytes(len(places), bound),)
    assert unpack(data, len(places), bound).tolist() == sorted(places)


def test_large_ranges_take_two_bits_more_than_the_logarithm_of_the_share() -> None:
    rng = np.random.default_rng(1)
    bound, count = 2_359_296, 23_593  # a convolution of a ResNet-18's layer4, and 1 % of it
    places = np.sort(rng.choice(bound, count, replace=False)).astype(np.int64)
    data = pack(places, bound)
    assert np.array_equal(unpack(data, count, bound), places)
    bits = 8 * len(data) / count
    assert np.log2(bound / count) < bits < np.log2(bound / count) + 2


@given(SETS, st.data())
def test_whatever_arrives_is_the_packed_form_of_what_is_read_or_refused(
    drawn: tuple[set[int], int], data: st.DataObject
) -> None:
    places, bound = drawn
    length = packed_bytes(len(places), bound)
    bytes_ = np.frombuffer(data.draw(st.binary(min_size=length, max_size=length)), np.uint8)
    changed = pack(numbers(places), bound).copy()
    changed[data.draw(st.integers(0, length - 1))] ^= 1 << data.draw(st.integers(0, 7))
    for found in (bytes_, changed):
        try:
            read = unpack(found, len(places), bound)
        except PackingError:
            continue
        assert len(set(read.tolist())) == len(places)
        assert 0 <= read.min() <= read.max() < bound
        assert np.array_equal(pack(read, bound), found)  # no two forms of one set


def test_another_length_is_refused() -> None:
    data = pack(numbers({3, 5}), 100)
    for wrong in (data[:-1], np.append(data, np.uint8(0)), data[:0]):
        with pytest.raises(PackingError, match="bytes, not"):
            unpack(wrong, 2, 100)


@pytest.mark.parametrize(
    ("count", "bound", "low", "row", "reason"),
    [
        (2, 4, "00", "111", "3 numbers, not 2"),
        (2, 4, "00", "100", "1 numbers, not 2"),
        (2, 5, "01", "1001", "5 is not below 5"),
        (2, 4, "00", "110", "do not ascend"),
        (2, 4, "10", "110", "do not ascend"),
        (2, 4, "00", "1011", "behind the last"),
        (2, 4, "001", "101", "behind the last"),
    ],
)
def test_what_is_refused_and_why(count: int, bound: int, low: str, row: str, reason: str) -> None:
    data = np.array([int(part[::-1], 2) for part in (low, row)], dtype=np.uint8)
    with pytest.raises(PackingError, match=reason):
        unpack(data, count, bound)
