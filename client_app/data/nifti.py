"""Decodes slices of NIfTI volumes, which are read no further than their header says."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from importlib import import_module
from math import prod
from typing import Any

import numpy as np

from client_app.data.decoding import MOST_PIXELS, TooManyPixelsError
from client_app.data.dicom import MissingReaderError
from client_app.data.pixels import Decoded, Plane, Preparation, chosen_slices, square_of_planes

LARGEST_VOLUME = 1 << 30  # bytes, unpacked
_HEADER = 544  # bytes: the longer of the two kinds, with the list of extensions
_KINDS = "biuf"


class NiftiError(ValueError):
    """What is wrong with a NIfTI file, in words that hold nothing of its header."""


def frames_of(content: bytes, preparation: Preparation) -> tuple[list[int], int]:
    """Return which slices of a file are pictures, and how many it has in all its volumes.

    Raises
    ------
    NiftiError
        It cannot be read.
    TooManyPixelsError
        A slice has more than `MOST_PIXELS`.
    """
    shape = _shape(_header(content))
    axis = preparation.nifti_axis
    order = _orientation(_header(content))
    stored_axis = next(i for i, (turned, _) in enumerate(order) if turned == axis)
    count, rest = shape[stored_axis], prod(shape[3:])
    if prod(shape[:3]) // max(count, 1) > MOST_PIXELS:
        raise TooManyPixelsError(f"a slice of {prod(shape[:3]) // count} pixels is")
    chosen = chosen_slices(count, preparation.slices)[:: preparation.nifti_stride]
    # What the stride passes over is not wanted; the second volume and later ones are left out.
    return chosen, len(chosen) * rest


def decode_frames(
    content: bytes, preparation: Preparation, frames: Sequence[int]
) -> Iterator[Decoded]:
    """Yield these slices of the first volume, turned as viewers show them.

    Raises
    ------
    NiftiError
        As `frames_of`, or the file ends too early.
    """
    volume, slope, intercept = _volume(content)
    for frame in frames:
        plane = np.rot90(volume.take(frame, axis=preparation.nifti_axis))
        values = plane if (slope, intercept) == (1.0, 0.0) else plane * slope + intercept
        yield square_of_planes([values], preparation)


def _header(content: bytes) -> Any:
    try:
        nibabel: Any = import_module("nibabel")
    except ModuleNotFoundError:
        raise MissingReaderError(
            "NIfTI files need nibabel: pip install 'fedstrata[medical]' at this site"
        ) from None
    start = _unpacked(content, _HEADER)
    for kind, size in ((nibabel.Nifti1Header, 348), (nibabel.Nifti2Header, 540)):
        for order in ("little", "big"):
            if int.from_bytes(start[:4], order) == size and len(start) >= size:
                return kind(start[:size], endianness=order, check=False)
    raise NiftiError("not a readable NIfTI file")


def _shape(header: Any) -> tuple[int, ...]:
    try:
        shape = tuple(int(each) for each in header.get_data_shape())
        kind = header.get_data_dtype()
    except Exception as error:
        raise NiftiError(f"its shape or type cannot be read: {type(error).__name__}") from None
    if not 2 <= len(shape) <= 7 or min(shape) < 1:
        raise NiftiError("it has no volume")
    if kind.kind not in _KINDS:
        raise NiftiError("its values are no plain numbers")
    shape = (*shape, 1)[: max(3, len(shape))]
    if prod(shape) * kind.itemsize > LARGEST_VOLUME:
        raise NiftiError(f"it claims more than {LARGEST_VOLUME >> 20} MiB")
    return shape


def _orientation(header: Any) -> list[tuple[int, int]]:
    """Return for each axis in the file where it goes, and its direction: right, front, up."""
    plain = [(0, 1), (1, 1), (2, 1)]
    try:
        found = import_module("nibabel").io_orientation(header.get_best_affine())
    except Exception:  # an affine that makes no sense: the axes stay as they are
        return plain
    if not np.isfinite(found).all():
        return plain
    return [(int(axis), int(direction)) for axis, direction in found]


def _volume(content: bytes) -> tuple[Plane, float, float]:
    """Return the first volume, its axes to the right, to the front and up, and its scale."""
    header = _header(content)
    shape, kind = _shape(header), header.get_data_dtype()
    offset = max(int(header["vox_offset"]), int(header["sizeof_hdr"]))
    if offset > LARGEST_VOLUME:
        raise NiftiError("its values do not begin where its header says")
    size = prod(shape[:3]) * kind.itemsize
    unpacked = _unpacked(content, offset + size)
    if len(unpacked) < offset + size:
        raise NiftiError("it ends before its last value")
    stored = np.ndarray(shape[:3], kind, unpacked, offset, order="F")
    slope, intercept = (float(header[name]) for name in ("scl_slope", "scl_inter"))
    if not np.isfinite(slope) or slope == 0 or not np.isfinite(intercept):
        slope, intercept = 1.0, 0.0  # as the format says: not scaled
    order = _orientation(header)
    for axis, (_, direction) in enumerate(order):
        if direction < 0:
            stored = np.flip(stored, axis)
    return stored.transpose(np.argsort([axis for axis, _ in order])), slope, intercept


def _unpacked(content: bytes, most: int) -> bytes:
    """Return the first ``most`` bytes of a file, gzip or plain."""
    if content[:2] != b"\x1f\x8b":
        return content[:most]
    try:
        return zlib.decompressobj(wbits=31).decompress(content, most)
    except zlib.error:
        raise NiftiError("its compression is damaged") from None
