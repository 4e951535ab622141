"""Checks the numbers by which pictures are normalized, and the range of those of 8 bits."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from statistics import median
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from client_app.data.findings import Findings
from fedstrata.support.errors import UserError, private

T = TypeVar("T")
MOST_LOOKED_AT = 64  # training pictures, for a warning of a small range
SMALL_SHARE = 8  # of a range: a warning where half of the pictures use less than this part


def check_normalization(mean: Sequence[float], std: Sequence[float], channels: int) -> None:
    """Raise a `UserError` unless each channel has a finite mean and a std above 0."""
    for name, numbers in (("mean", mean), ("std", std)):
        if len(numbers) != channels or not all(map(isfinite, numbers)):
            raise UserError(f"data.{name}: {channels} numbers, one per channel, not {numbers}")
    if min(std) <= 0:
        raise UserError(f"data.std: every number must be above 0, not {std}")


def some_of(rows: Sequence[T]) -> Sequence[T]:
    """Return at most `MOST_LOOKED_AT` of them, evenly spaced."""
    return rows[:: -(-len(rows) // MOST_LOOKED_AT) or 1]


def warn_of_small_range(pictures: Sequence[NDArray[Any]], advice: str, findings: Findings) -> None:
    """Warn where half of the pictures of 8 bits, uint8 ``(h, w, c)``, are nearly one gray.

    Such files are masks of 0 and 1, or have 4 bits in 8: the network would see black alone.
    ``advice`` is what to do.
    """
    narrow = [each for each in pictures if each.dtype == np.uint8]
    used = [int(each.max()) - int(each.min()) for each in narrow]
    if used and median(used) * SMALL_SHARE < 255:
        low, high = min(int(each.min()) for each in narrow), max(int(each.max()) for each in narrow)
        findings.warn(
            f"half of the training pictures use less than 1/{SMALL_SHARE} of the values 0 to 255"
            + private(f" (they go from {low} to {high}, scaled for the network)")
            + f": {advice}"
        )
