"""Turns the values of a decoded picture into a square of numbers, without losing levels."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image

Square: TypeAlias = "NDArray[np.uint8] | NDArray[np.float32]"
Plane: TypeAlias = NDArray[Any]

LUMA = (0.299, 0.587, 0.114)  # the weights of red, green and blue in gray (ITU-R BT.601, as Pillow)
EIGHT_BITS = (0.0, 255.0)
VERSION = 1  # of the decoders here: a change of any pixel raises it
_TURN = Image.Transpose
_TURNS = {
    2: _TURN.FLIP_LEFT_RIGHT,
    3: _TURN.ROTATE_180,
    4: _TURN.FLIP_TOP_BOTTOM,
    5: _TURN.TRANSPOSE,
    6: _TURN.ROTATE_270,
    7: _TURN.TRANSVERSE,
    8: _TURN.ROTATE_90,
}


@dataclass(frozen=True)
class Preparation:
    """What is done to each picture when it is decoded; scaling to [0, 1] comes later.

    Parameters
    ----------
    size : int
        Side of the squares in pixels.
    channels : int
        1 for gray, 3 for red, green and blue.
    background : tuple of int
        Red, green and blue, 0 to 255, behind what is transparent.
    slices : str
        Of files with several frames or slices: ``all``, or ``middle``.
    nifti_axis, nifti_stride : int
        Across which axis volumes are cut, 0 to 2, and every how manyth slice is taken.
    """

    size: int
    channels: int = 3
    background: tuple[int, int, int] = (255, 255, 255)
    slices: str = "all"
    nifti_axis: int = 2
    nifti_stride: int = 1

    def key(self) -> str:
        """Return a SHA-256 of all that decides the values of a decoded picture."""
        made = repr((VERSION, PIL.__version__, self))
        return hashlib.sha256(made.encode()).hexdigest()


def chosen_slices(count: int, which: str) -> list[int]:
    """Return which of ``count`` slices are pictures: ``all`` of them, or the one in the middle."""
    return list(range(count)) if which == "all" else [count // 2]


class Facts(NamedTuple):
    """What is known of a picture once it is decoded.

    ``low`` and ``high`` are the extremes of its values before it is cut and scaled; ``window`` is
    the range that the file itself asks to be shown, NaN where it has none.
    """

    low: float
    high: float
    wide: bool = False  # more than 8 bits: its values are kept as they are in the file
    inverted: bool = False  # the lowest value is white
    colored: bool = False
    unused_pages: int = 0
    window_low: float = float("nan")
    window_high: float = float("nan")


class Decoded(NamedTuple):
    """A decoded picture.

    The square is uint8 ``(size, size, channels)``, or float32 ``(size, size, 1 or channels)`` where
    the file has more than 8 bits a value. ``size`` is width and height of the whole picture, as it
    is seen.
    """

    square: Square
    facts: Facts
    size: tuple[int, int]


def square_of_image(image: Image.Image, preparation: Preparation) -> NDArray[np.uint8]:
    """Return the central square of a picture with 8 bits a value."""
    edge = min(image.size)
    left, upper = (image.width - edge) // 2, (image.height - edge) // 2
    crop = image.crop((left, upper, left + edge, upper + edge))
    flat = _without_alpha(crop, preparation)
    size = (preparation.size, preparation.size)
    scaled = np.asarray(flat.resize(size, Image.Resampling.BILINEAR), dtype=np.uint8)
    return scaled.reshape(*size, preparation.channels)


def _without_alpha(image: Image.Image, preparation: Preparation) -> Image.Image:
    if image.has_transparency_data:
        behind = Image.new("RGBA", image.size, (*preparation.background, 255))
        image = Image.alpha_composite(behind, image.convert("RGBA"))
    if preparation.channels == 3:
        return image.convert("RGB")
    return image.convert("L") if image.mode in ("1", "L") else image.convert("RGB").convert("L")


def square_of_planes(
    planes: Iterable[Plane], preparation: Preparation, alpha: Plane | None = None, **facts: Any
) -> Decoded:
    """Return the central square of a picture with more than 8 bits a value.

    Parameters
    ----------
    planes : iterable of NDArray
        One or three arrays ``(height, width)`` of integers or floats. Values that are not finite
        become the plane's lowest.
    preparation : Preparation
        Its background is taken as a share of 65,535.
    alpha : NDArray or None
        uint16 ``(height, width)``; 0 is transparent.
    **facts
        More of the `Facts`.

    Raises
    ------
    ValueError
        A plane has no finite value.
    """
    squares, lows, highs, size = [], [], [], (0, 0)
    for plane, behind in zip(planes, preparation.background, strict=False):
        whole = _finite(plane)
        seen = whole if alpha is None or not alpha.any() else whole[alpha > 0]
        lows.append(float(seen.min()))
        highs.append(float(seen.max()))
        size = (whole.shape[1], whole.shape[0])
        cut = _central(whole).astype(np.float32)
        if alpha is not None:
            share = _central(alpha).astype(np.float32) / 65535
            cut = (cut * share + (1 - share) * (behind * 257)).astype(np.float32)
        scaled = Image.fromarray(cut).resize((preparation.size,) * 2, Image.Resampling.BILINEAR)
        squares.append(np.asarray(scaled, dtype=np.float32))
    square = np.stack(squares, axis=-1)
    if preparation.channels == 1 and len(squares) == 3:
        square = (square @ np.array(LUMA, dtype=np.float32))[..., None]
    return Decoded(
        np.ascontiguousarray(square),
        Facts(min(lows), max(highs), wide=True, colored=len(squares) == 3, **facts),
        size,
    )


def _finite(plane: Plane) -> Plane:
    if plane.dtype.kind != "f":
        return plane
    with np.errstate(over="ignore"):
        narrow = plane.astype(np.float32)
    good = np.isfinite(narrow)
    if good.all():
        return narrow
    if not good.any():
        raise ValueError("no value in it is a finite number")
    return np.where(good, narrow, narrow[good].min())


def _central(plane: Plane) -> Plane:
    height, width = plane.shape
    edge = min(height, width)
    upper, left = (height - edge) // 2, (width - edge) // 2
    return plane[upper : upper + edge, left : left + edge]


def turned_image(image: Image.Image, orientation: int) -> Image.Image:
    """Return a picture turned as an EXIF orientation asks, 1 to 8; others mean nothing."""
    turn = _TURNS.get(orientation)
    return image if turn is None else image.transpose(turn)


def turned_plane(plane: Plane, orientation: int) -> Plane:
    """Return an array ``(height, width)`` turned as `turned_image` turns a picture."""
    if orientation in (2, 3, 7):
        plane = plane[:, ::-1]
    if orientation in (3, 4, 7):
        plane = plane[::-1]
    if orientation in (5, 7):
        plane = plane.T
    return np.rot90(plane, {6: -1, 8: 1}.get(orientation, 0))


def scaled_values(
    square: Square, facts: Facts, span: tuple[float, float] | None, channels: int
) -> NDArray[np.float32]:
    """Return a square's values from 0 to 1, float32 ``(size, size, channels)``.

    Parameters
    ----------
    square : NDArray
        As in `Decoded`.
    facts : Facts
        Of the same picture.
    span : tuple of float or None
        The values that become 0 and 1; None: 0 and 255 for 8 bits, its own for others.
    channels : int
        1 or 3.
    """
    low, high = span or ((facts.low, facts.high) if facts.wide else EIGHT_BITS)
    width = (high - low) or 1.0  # of one value alone everything becomes 0
    values = ((square.astype(np.float64) - low) / width).clip(0.0, 1.0).astype(np.float32)
    if facts.inverted:
        values = 1 - values
    return np.broadcast_to(values, (*values.shape[:2], channels))
