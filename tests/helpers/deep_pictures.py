"""Writes small PNG and TIFF files of any depth, as Pillow itself cannot."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

import numpy as np

GRAY, COLOR, GRAY_ALPHA, COLOR_ALPHA = 0, 2, 4, 6  # PNG's types of color


def png16(values: np.ndarray, kind: int, extra: bytes = b"") -> bytes:
    """Return a PNG of 16 bits: ``(height, width)`` or ``(height, width, channels)`` of uint16."""
    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    parts = (
        _chunk(b"IHDR", header),
        extra,
        _chunk(b"IDAT", zlib.compress(rows)),
        _chunk(b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def transparent_value(value: int) -> bytes:
    """Return the chunk of a gray PNG that makes one value transparent."""
    return _chunk(b"tRNS", struct.pack(">H", value))


def _chunk(name: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(name + content)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)


def tiff(
    values: np.ndarray,
    order: str = "<",
    *,
    white_is_low: bool = False,
    one_bit: bool = False,
    more: Sequence[tuple[int, int]] = (),
) -> bytes:
    """Return an uncompressed TIFF of an array, in byte order ``<`` or ``>``; ``more`` are tags."""
    height, width = values.shape[:2]
    samples = values.shape[2] if values.ndim == 3 else 1
    data = values.astype(values.dtype.newbyteorder(order)).tobytes()
    bits = 8 * values.dtype.itemsize
    if one_bit:
        data, bits = np.packbits(values > 0, axis=1).tobytes(), 1
    photometric = 2 if samples > 1 else 1 - white_is_low
    entries = [
        *((256, 4, [width]), (257, 4, [height]), (258, 3, [bits] * samples), (259, 3, [1])),
        *((262, 3, [photometric]), (273, 4, [0]), (277, 3, [samples]), (278, 4, [height])),
        *((279, 4, [len(data)]), (339, 3, [{"u": 1, "i": 2, "f": 3}[values.dtype.kind]] * samples)),
        *((tag, 3, [value]) for tag, value in more),
    ]
    after = 8 + 2 + 12 * len(entries) + 4
    long = sum(2 * samples for _, kind, given in entries if kind == 3 and len(given) > 2)
    directory, beyond = b"", b""
    for tag, kind, given in sorted(entries):
        each = [after + long] if tag == 273 else given
        packed = b"".join(struct.pack(order + ("H" if kind == 3 else "I"), one) for one in each)
        if len(packed) > 4:
            offset = after + len(beyond)
            beyond += packed
            packed = struct.pack(order + "I", offset)
        directory += struct.pack(order + "HHI", tag, kind, len(each)) + packed.ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    count = struct.pack(order + "H", len(entries))
    return head + count + directory + b"\0" * 4 + beyond + data
