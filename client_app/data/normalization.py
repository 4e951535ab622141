"""Checks the numbers by which pictures are normalized."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

from fedstrata.support.errors import UserError


def check_normalization(mean: Sequence[float], std: Sequence[float], channels: int) -> None:
    """Raise a `UserError` unless each channel has a finite mean and a std above 0."""
    for name, numbers in (("mean", mean), ("std", std)):
        if len(numbers) != channels or not all(map(isfinite, numbers)):
            raise UserError(f"data.{name}: {channels} numbers, one per channel, not {numbers}")
    if min(std) <= 0:
        raise UserError(f"data.std: every number must be above 0, not {std}")
