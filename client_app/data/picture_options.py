"""The options of pictures: how they are decoded, scaled and kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

from PIL import ImageColor

from client_app.data.normalization import check_normalization
from client_app.data.pixels import LUMA, Preparation
from fedstrata.support.errors import UserError

REFUSE, SKIP = "refuse", "skip"
SLICES = ("all", "middle")
OF_FILE = "file"  # data.window: each file's own


@dataclass(frozen=True)
class PictureOptions:
    """The options of ``conf/data/images.yaml`` for the pictures themselves."""

    size: int
    channels: int
    background: str
    range: list[float] | None
    window: Any
    mean: list[float]
    std: list[float]
    slices: str
    nifti_axis: int
    nifti_stride: int
    unreadable: str
    unreadable_most: float
    memory_mb: int
    cache_mb: int

    def check(self) -> None:
        """Raise a `UserError` where an option of pictures makes no sense."""
        if not 1 <= self.size <= 4096:
            raise UserError(f"data.size: {self.size} is not between 1 and 4096 pixels")
        if self.channels not in (1, 3):
            raise UserError(f"data.channels: 1 (gray) or 3 (color), not {self.channels}")
        check_normalization(*self.normalization(), self.channels)
        if self.memory_mb < 0 or self.cache_mb < 0:
            raise UserError("data.memory_mb and data.cache_mb: not a negative number")
        if self.unreadable not in (REFUSE, SKIP):
            raise UserError(f"data.unreadable: refuse or skip, not {self.unreadable!r}")
        if not (isfinite(self.unreadable_most) and self.unreadable_most >= 0):
            raise UserError("data.unreadable_most: a share below 1, or a number of pictures")
        if self.slices not in SLICES:
            raise UserError(f"data.slices: {' or '.join(SLICES)}, not {self.slices!r}")
        if self.nifti_axis not in (0, 1, 2):
            raise UserError("data.nifti_axis: 0 (sagittal), 1 (coronal) or 2 (axial)")
        if self.nifti_stride < 1:
            raise UserError("data.nifti_stride: 1 for every slice, 2 for every second, ...")
        self.given_span()
        self.preparation()

    def normalization(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return mean and std, one number a channel.

        Three numbers for gray pictures are weighted as the colors are.
        """
        if self.channels == 1 and len(self.mean) == len(self.std) == 3:
            return _gray(self.mean), _gray(self.std)
        return tuple(self.mean), tuple(self.std)

    def given_span(self) -> tuple[float, float] | None:
        """Return the values that become 0 and 1, by ``range`` or ``window``; None without."""
        if self.range is not None and self.window is not None:
            raise UserError("data.range and data.window: give one of them, and null for the other")
        if self.range is not None:
            low, high = _two_numbers("data.range", self.range, "[lowest, highest]")
            if not low < high:
                raise UserError(f"data.range: the second number is not above the first: {low}")
            return low, high
        if self.window is None or self.window == OF_FILE:
            return None
        center, width = _two_numbers("data.window", self.window, "[center, width], or file")
        if not width > 0:
            raise UserError(f"data.window: a width above 0, not {width}")
        return center - width / 2, center + width / 2

    def preparation(self) -> Preparation:
        """Return what is done to each picture when it is decoded."""
        try:
            red, green, blue = ImageColor.getrgb(self.background)[:3]
        except ValueError:
            raise UserError(
                f"data.background: {self.background[:80]!r} is no color; write white, black, or "
                "red, green and blue as in '#808080'"
            ) from None
        return Preparation(
            self.size,
            self.channels,
            (red, green, blue),
            self.slices,
            self.nifti_axis,
            self.nifti_stride,
        )


def _gray(numbers: Sequence[float]) -> tuple[float, ...]:
    return (sum(weight * number for weight, number in zip(LUMA, numbers, strict=True)),)


def _two_numbers(where: str, given: object, how: str) -> tuple[float, float]:
    if isinstance(given, Sequence) and not isinstance(given, str) and len(given) == 2:
        first, second = given
        if all(isinstance(each, int | float) and isfinite(each) for each in (first, second)):
            return float(first), float(second)
    raise UserError(f"{where}: two numbers, {how}, not {str(given)[:80]!r}")
