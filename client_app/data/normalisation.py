"""Checks the numbers by which pictures are normalised."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

from fedstrata.support.errors import UserError


def check_normalisation(mean: Sequence[float], std: Sequence[float], channels: int) -> None:
    """Raise `UserError` unless there is one finite mean and one std above 0 per channel."""
    for name, numbers in (("mean", mean), ("std", std)):
        if len(numbers) != channels or not all(map(isfinite, numbers)):
            raise UserError(f"data.{name}: {channels} numbers, one per channel, not {numbers}")
    if min(std) <= 0:
        raise UserError(f"data.std: every number must be above 0, not {std}")
