"""Decodes untrusted picture files, whatever their depth, to squares of numbers."""

from __future__ import annotations

import io
import struct
import sys
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageFile

from client_app.data.pixels import (
    EIGHT_BITS,
    Decoded,
    Facts,
    Plane,
    Preparation,
    square_of_image,
    square_of_planes,
    turned_image,
    turned_plane,
)

# Only these are decoded. Others start programs (EPS) or are rarely tested.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
MOST_PIXELS = 64_000_000
_ORIENTATION = 0x0112
_PHOTOMETRIC, _BITS, _SAMPLE_FORMAT = 262, 258, 339
_COLORLESS = ("1", "L", "LA", "La")
# For samples of 16 bits Pillow keeps the byte that its raw mode says is the upper one.
_OTHER_BYTE = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}


class TooManyPixelsError(ValueError):
    """A picture claims more pixels than are decoded."""


def decode_picture(content: bytes, preparation: Preparation) -> Decoded:
    """Decode the first page of a picture file, turned as its EXIF tag says.

    Parameters
    ----------
    content : bytes
        The file, not trusted.
    preparation : Preparation
        What becomes of the picture.

    Raises
    ------
    TooManyPixelsError
        The file claims more than `MOST_PIXELS`.
    Exception
        Pillow's decoders raise a dozen kinds for damaged files.
    """
    content, white_is_low = _tiff_without_inversion(content)
    with _opened(content) as image:
        pages = _pages(image)
        image.verify()  # checks the file's sums; the image cannot be decoded afterwards
    with _opened(content) as image:
        if _has_wide_samples(image):
            decoded = _decode_wide(content, image, preparation, white_is_low)
        else:
            decoded = _decode_narrow(image, preparation)
    return decoded._replace(facts=decoded.facts._replace(unused_pages=pages - 1))


def _opened(content: bytes) -> ImageFile.ImageFile:
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
    except Image.DecompressionBombError:  # from twice as many as Pillow itself thinks normal
        raise TooManyPixelsError("its pixels are") from None
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise TooManyPixelsError(f"{width} x {height} pixels are")
    return image


def _pages(image: ImageFile.ImageFile) -> int:
    try:
        return max(1, int(getattr(image, "n_frames", 1)))
    except Exception:  # a damaged second page does not matter
        return 1


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged metadata: the picture itself can be sound
        return 1


def _decode_narrow(image: Image.Image, preparation: Preparation) -> Decoded:
    image.load()
    colored = image.mode not in _COLORLESS
    image = turned_image(image, _orientation(image))
    square = square_of_image(image, preparation)
    return Decoded(square, Facts(*EIGHT_BITS, colored=colored), image.size)


# -- more than 8 bits a value ----------------------------------------------------------------------


def _raw_mode(image: ImageFile.ImageFile) -> str:
    """Return Pillow's name of how the samples stand in the file, such as ``RGB;16B``."""
    args = image.tile[0].args if image.tile else None
    first = args[0] if isinstance(args, tuple) and args else args
    return first if isinstance(first, str) else ""


def _has_wide_samples(image: ImageFile.ImageFile) -> bool:
    if image.mode.startswith("I") or image.mode == "F":
        return True
    if image.format == "PPM":
        return image.mode == "RGB" and _ppm_maximum(image) > 255
    return image.mode.upper().startswith("RGB") and ";16" in _raw_mode(image)


def _ppm_maximum(image: ImageFile.ImageFile) -> int:
    """Return a PPM's or PGM's largest value; Pillow leaves it in the decoder's arguments."""
    args = image.tile[0].args
    if isinstance(args, tuple) and len(args) == 2 and isinstance(args[1], int):
        return args[1]
    return 65535 if _raw_mode(image) == "I;16B" else 255


def _decode_wide(
    content: bytes, image: ImageFile.ImageFile, preparation: Preparation, white_is_low: bool
) -> Decoded:
    if image.format == "PPM":
        planes, alpha = _ppm_planes(content, image), None
    elif image.mode.startswith("I") or image.mode == "F":
        planes, alpha = [_single_plane(image)], None
    else:
        planes, alpha = _two_byte_planes(content, image)
    if image.format == "PNG" and "transparency" in image.info and alpha is None:
        alpha = _alpha_of_one_value(planes, image.info["transparency"])
    # Pillow itself turns a TIFF while it loads it, and then forgets the tag.
    orientation = _orientation(image)
    return square_of_planes(
        (_inverted(turned_plane(plane, orientation), white_is_low) for plane in planes),
        preparation,
        None if alpha is None else turned_plane(alpha, orientation),
    )


def _single_plane(image: ImageFile.ImageFile) -> Plane:
    tags = getattr(image, "tag_v2", {})
    if image.tile and image.tile[0].codec_name == "libtiff" and sys.byteorder == "little":
        # libtiff gives samples in the machine's order; for these Pillow would swap them again.
        swapped = {"I;16BS": "I;16S", "I;32BS": "I;32S", "F;32BF": "F;32F", "F;64BF": "F;64F"}
        _set_raw_mode(image, swapped.get(_raw_mode(image), _raw_mode(image)))
    unsigned = image.mode == "I" and tags.get(_BITS) == (32,) and tags.get(_SAMPLE_FORMAT) != (2,)
    image.load()
    plane = np.asarray(image)
    return plane.view(np.uint32) if unsigned else plane


def _ppm_planes(content: bytes, image: ImageFile.ImageFile) -> list[Plane]:
    """Return the values as they stand in the file; Pillow would scale them to 8 or 16 bits."""
    maximum, (width, height) = _ppm_maximum(image), image.size
    channels = 3 if image.mode == "RGB" else 1
    start, count = image.tile[0].offset, width * height * channels
    if image.mode == "F":
        image.load()
        return [np.asarray(image)]
    if content[:2] in (b"P5", b"P6"):
        values = np.frombuffer(content, dtype=">u2", count=count, offset=start)
    else:
        values = np.fromstring(content[start:], dtype=np.int64, count=count, sep=" ")
    if values.size != count or not 0 <= values.min() <= values.max() <= maximum:
        raise ValueError("its values are fewer or larger than its header says")
    shaped = values.reshape(height, width, channels)
    return [shaped[..., channel] for channel in range(channels)]


def _two_byte_planes(
    content: bytes, image: ImageFile.ImageFile
) -> tuple[list[Plane], Plane | None]:
    """Return the planes of a picture with several samples of 16 bits, and its alpha.

    Pillow keeps the upper byte of each. So it is decoded twice, the second time as if the bytes
    stood the other way round.
    """
    mode = _raw_mode(image)
    with _opened(content) as other:
        if mode == "LA;16B":  # there is no other way round for it: four bytes, as if they were RGBA
            _set_raw_mode(other, "RGBA")
            other.load()
            gray, low, alpha, alpha_low = (np.asarray(band) for band in other.split())
            return [_joined(gray, low)], _joined(alpha, alpha_low)
        _set_raw_mode(other, mode[:-1] + _OTHER_BYTE[mode[-1]])
        image.load()
        other.load()
        pairs = list(zip(image.split(), other.split(), strict=True))
    bands = [_joined(np.asarray(upper), np.asarray(lower)) for upper, lower in pairs]
    return bands[:3], bands[3] if len(bands) == 4 else None


def _joined(upper: Plane, lower: Plane) -> Plane:
    return (upper.astype(np.uint16) << 8) | lower


def _set_raw_mode(image: ImageFile.ImageFile, mode: str) -> None:
    def changed(args: object) -> object:
        return (mode, *args[1:]) if isinstance(args, tuple) else mode

    image.tile = [tile._replace(args=changed(tile.args)) for tile in image.tile]  # type: ignore[arg-type]


def _alpha_of_one_value(planes: list[Plane], value: object) -> Plane | None:
    """Return the alpha of a PNG in which one value or color is transparent."""
    chosen = value if isinstance(value, tuple) else (value,)
    if len(chosen) != len(planes) or not all(isinstance(each, int) for each in chosen):
        return None
    hidden = np.logical_and.reduce(
        [plane == each for plane, each in zip(planes, chosen, strict=True)]
    )
    return np.where(hidden, 0, 65535).astype(np.uint16)


# -- TIFF in which 0 is white ----------------------------------------------------------------------


def _inverted(plane: Plane, white_is_low: bool) -> Plane:
    if not white_is_low:
        return plane
    if plane.dtype.kind == "f":
        return -plane
    limits = np.iinfo(plane.dtype)
    if plane.dtype == np.int32:  # Pillow's mode for signed 16 bits, too
        return -1 - plane
    return (limits.max - plane).astype(plane.dtype)


def _tiff_without_inversion(content: bytes) -> tuple[bytes, bool]:
    """Return a TIFF of more than 8 bits as if 0 were black, and whether it is white in the file.

    Pillow inverts those of 8 bits and fewer, does not invert others, and opens some of them not.
    """
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(content[:4])
    if order is None:
        return content, False
    try:
        (start,) = struct.unpack_from(f"{order}I", content, 4)
        entries = list(_short_tags(content, order, start))
    except struct.error:
        return content, False  # damaged: Pillow says how
    tags = {tag: (value, where) for tag, value, where in entries}
    value, where = tags.get(_PHOTOMETRIC, (1, 0))
    if value != 0 or tags.get(_BITS, (1, 0))[0] <= 8:
        return content, False
    changed = bytearray(content)
    struct.pack_into(f"{order}H", changed, where, 1)
    return bytes(changed), True


def _short_tags(content: bytes, order: str, start: int) -> Iterator[tuple[int, int, int]]:
    """Yield tag, value and place of the value of each single 16-bit entry of a TIFF's directory."""
    (count,) = struct.unpack_from(f"{order}H", content, start)
    for number in range(count):
        entry = start + 2 + 12 * number
        tag, kind, length, value = struct.unpack_from(f"{order}HHIH", content, entry)
        if kind == 3 and length == 1:
            yield tag, value, entry + 8
