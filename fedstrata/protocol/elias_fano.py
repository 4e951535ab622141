"""Ascending numbers in few bits (Elias and Fano); their count and bound decide the length."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_BYTE = 8
Bytes = NDArray[np.uint8]
Numbers = NDArray[np.int64]


class PackingError(ValueError):
    """Bytes that are not the packed form of ascending numbers."""


def packed_bytes(count: int, bound: int) -> int:
    """Return the bytes of so many ascending numbers: about 2 + log2(bound/count) bits for each."""
    low, upper = _lengths(count, bound)
    return _bytes(count * low) + _bytes(upper)


def pack(numbers: Numbers, bound: int) -> Bytes:
    """Return ascending numbers as bytes (Elias 1974, Fano 1971).

    Each number is split into its low bits, which are written as they are, and the rest. The i-th
    rest sets bit ``rest + i`` of a row of bits. No two sets of numbers have the same bytes.

    Parameters
    ----------
    numbers : NDArray of int64
        Strictly ascending, at least 0 and below ``bound``; at least one.
    bound : int
        The size of the range, at least the count of the numbers.

    Returns
    -------
    NDArray of uint8
        ``packed_bytes(len(numbers), bound)`` of them.
    """
    count = len(numbers)
    low, upper = _lengths(count, bound)
    lows = (numbers[:, None] >> np.arange(low)) & 1
    row = np.zeros(upper, dtype=np.uint8)
    row[(numbers >> low) + np.arange(count)] = 1
    first = np.packbits(lows.astype(np.uint8).reshape(-1), bitorder="little")
    return np.concatenate([first, np.packbits(row, bitorder="little")])


def unpack(data: Bytes, count: int, bound: int) -> Numbers:
    """Undo `pack`; the memory used follows from ``count`` and ``bound``, not from ``data``.

    Raises
    ------
    PackingError
        The length is wrong, the numbers do not ascend, one is not below ``bound``, or bits are set
        that have no meaning.
    """
    if data.shape != (packed_bytes(count, bound),):
        raise PackingError(f"{data.size} bytes, not {packed_bytes(count, bound)}")
    low, upper = _lengths(count, bound)
    split = _bytes(count * low)
    lows = _bits(data[:split], count * low).reshape(count, low)
    positions = np.flatnonzero(_bits(data[split:], upper))
    if len(positions) != count:
        raise PackingError(f"{len(positions)} numbers, not {count}")
    numbers = (positions - np.arange(count)) << low
    numbers |= lows.astype(np.int64) @ (np.int64(1) << np.arange(low, dtype=np.int64))
    if count and numbers[-1] >= bound:
        raise PackingError(f"the number {numbers[-1]} is not below {bound}")
    if not (numbers[1:] > numbers[:-1]).all():
        raise PackingError("the numbers do not ascend: one is there twice, or they are unordered")
    return numbers


def _lengths(count: int, bound: int) -> tuple[int, int]:
    """Return the low bits of each number, and the bits of the row of the rests."""
    if not 0 < count <= bound:
        raise ValueError(f"{count} numbers below {bound}")
    low = (bound // count).bit_length() - 1
    return low, count + ((bound - 1) >> low)


def _bytes(bits: int) -> int:
    return -(-bits // _BYTE)


def _bits(data: Bytes, count: int) -> Bytes:
    """Return the first ``count`` bits; the rest of the last byte must be empty."""
    bits = np.unpackbits(data, bitorder="little")
    if bits[count:].any():
        raise PackingError("bits are set behind the last number")
    return bits[:count]
