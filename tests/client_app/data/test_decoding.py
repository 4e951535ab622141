"""Every depth keeps its values; metadata that turns, inverts or hides pixels is followed."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from client_app.data.decoding import TooManyPixelsError, decode_picture
from client_app.data.pixels import Preparation
from tests.helpers.data_files import encoded, picture
from tests.helpers.deep_pictures import (
    COLOR,
    COLOR_ALPHA,
    GRAY,
    GRAY_ALPHA,
    png16,
    tiff,
    transparent_value,
)

SIDE = 16
AS_IT_IS, ONE_CHANNEL = Preparation(SIDE), Preparation(SIDE, channels=1)
RNG = np.random.default_rng(0)
TWELVE = RNG.integers(0, 4096, (SIDE, SIDE)).astype(np.uint16)
COLORS = RNG.integers(0, 65536, (SIDE, SIDE, 3)).astype(np.uint16)
OPAQUE = np.full((SIDE, SIDE, 1), 65535, np.uint16)


def pnm(kind: str, values: np.ndarray, maximum: int) -> bytes:
    header = f"{kind} {SIDE} {SIDE} {maximum}\n".encode()
    if kind in ("P5", "P6"):
        return header + values.astype(">u2").tobytes()
    return header + b" ".join(b"%d" % value for value in values.ravel())


def saved(image: Image.Image, kind: str, **how: object) -> bytes:
    memory = io.BytesIO()
    image.save(memory, kind, **how)
    return memory.getvalue()


def check(content: bytes, expected: np.ndarray) -> None:
    """Assert that a file gives exactly these values, as numbers of the file."""
    square, facts, _ = decode_picture(content, AS_IT_IS)
    assert square.dtype == np.float32
    assert (square == expected.reshape(SIDE, SIDE, -1)).all()
    assert (facts.low, facts.high, facts.wide) == (expected.min(), expected.max(), True)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_kept(kind: str) -> None:
    check(saved(Image.fromarray(TWELVE), kind), TWELVE)


@pytest.mark.parametrize("maximum", [4095, 65535])
def test_a_pgm_has_the_values_of_its_file(maximum: int) -> None:
    check(pnm("P5", TWELVE, maximum), TWELVE)
    check(pnm("P2", TWELVE, maximum), TWELVE)


def test_colors_of_sixteen_bits_are_kept() -> None:
    check(png16(COLORS, COLOR), COLORS)
    check(png16(np.concatenate([COLORS, OPAQUE], axis=-1), COLOR_ALPHA), COLORS)
    check(png16(np.concatenate([TWELVE[..., None], OPAQUE], axis=-1), GRAY_ALPHA), TWELVE)
    check(pnm("P6", COLORS, 65535), COLORS)
    check(pnm("P3", COLORS, 65535), COLORS)
    for order in "<>":
        check(tiff(COLORS, order), COLORS)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_a_compressed_tiff_keeps_its_values(compression: str) -> None:
    content = saved(Image.fromarray(TWELVE), "TIFF", compression=compression)
    check(content, TWELVE)
    check(
        content.replace(b"\x06\x01\x03\0\x01\0\0\0\x01", b"\x06\x01\x03\0\x01\0\0\0\0"),
        65535 - TWELVE,
    )


@pytest.mark.parametrize("order", ["<", ">"])
def test_signed_wide_and_real_values_are_kept(order: str) -> None:
    signed = (TWELVE.astype(np.int16) - 2000).astype(np.int16)
    check(tiff(signed, order), signed)
    check(tiff(signed, order, white_is_low=True), -1 - signed)
    check(tiff(signed.astype(np.int32) * 1000, order), signed.astype(np.int32) * 1000)
    real = (signed / 7).astype(np.float32)
    check(tiff(real, order), real)
    check(tiff(real, order, white_is_low=True), -real)


@pytest.mark.parametrize("order", ["<", ">"])
def test_white_can_be_the_lowest_value_in_every_depth(order: str) -> None:
    check(tiff(TWELVE, order, white_is_low=True), 65535 - TWELVE)
    narrow = (TWELVE >> 4).astype(np.uint8)
    square = decode_picture(tiff(narrow, order, white_is_low=True), AS_IT_IS).square
    assert (square == 255 - narrow[..., None]).all()
    light = (narrow > 99).astype(np.uint8)
    content = tiff(light, order, white_is_low=True, one_bit=True)
    square = decode_picture(content, AS_IT_IS).square
    assert (square == np.where(narrow > 99, 0, 255)[..., None]).all()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_as_every_viewer_shows_it(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = saved(picture(1, SIDE, SIDE), kind, exif=exif)
    with Image.open(io.BytesIO(content)) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    assert (decode_picture(content, AS_IT_IS).square == expected).all()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_of_sixteen_bits_is_turned_too(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    signed = Image.fromarray(TWELVE.astype(np.int32))
    signed.getexif()[0x0112] = orientation
    check(
        saved(Image.fromarray(TWELVE), kind, exif=exif), np.asarray(ImageOps.exif_transpose(signed))
    )


def test_a_picture_is_turned_before_its_center_is_cut_out() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    content = saved(picture(1, SIDE, SIDE + 9), "PNG", exif=exif)
    with Image.open(io.BytesIO(content)) as image:
        upright = ImageOps.exif_transpose(image)
    assert upright.size == (SIDE + 9, SIDE)
    expected = np.asarray(upright)[:, 4 : 4 + SIDE]
    assert (decode_picture(content, AS_IT_IS).square == expected).all()


def test_damaged_metadata_does_not_matter() -> None:
    content = saved(picture(1, SIDE, SIDE), "PNG", exif=b"Exif\0\0no such thing")
    assert (decode_picture(content, AS_IT_IS).square == np.asarray(picture(1, SIDE, SIDE))).all()


def test_transparent_pixels_show_the_background() -> None:
    content = encoded(Image.new("RGBA", (8, 8), (200, 100, 0, 0)))
    for background in ((255, 255, 255), (0, 0, 0), (10, 20, 30)):
        square = decode_picture(content, Preparation(8, background=background)).square
        assert (square == background).all()
    half = encoded(Image.new("LA", (8, 8), (100, 128)))
    assert (abs(decode_picture(half, Preparation(8)).square.astype(int) - 177) <= 1).all()


def test_a_transparent_color_of_a_palette_shows_the_background() -> None:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([9, 9, 9, 50, 60, 70])
    for kind in ("PNG", "GIF"):
        assert (decode_picture(saved(image, kind), Preparation(8)).square == (50, 60, 70)).all()
        content = saved(image, kind, transparency=1)
        assert (decode_picture(content, Preparation(8)).square == 255).all()


def test_transparency_of_sixteen_bits_shows_the_background() -> None:
    alpha = OPAQUE.copy()
    alpha[:8] = 0
    content = png16(np.concatenate([TWELVE[..., None], alpha], axis=-1), GRAY_ALPHA)
    square, facts, _ = decode_picture(content, AS_IT_IS)
    assert (square[:8] == 65535).all()
    assert (square[8:, :, 0] == TWELVE[8:]).all()
    assert facts.high == TWELVE[8:].max()
    values = np.where(TWELVE > 2000, 7, TWELVE)
    square = decode_picture(png16(values, GRAY, transparent_value(7)), AS_IT_IS).square
    assert ((square[..., 0] == 65535) == (values == 7)).all()


def test_gray_is_one_channel_and_colors_become_gray() -> None:
    gray = (TWELVE >> 4).astype(np.uint8)
    square, facts, _ = decode_picture(encoded(Image.fromarray(gray)), ONE_CHANNEL)
    assert (square[..., 0] == gray).all()
    assert not facts.colored
    color = picture(3, SIDE, SIDE)
    square, facts, _ = decode_picture(encoded(color), ONE_CHANNEL)
    assert (square[..., 0] == np.asarray(color.convert("L"))).all()
    assert facts.colored
    square = decode_picture(png16(COLORS, COLOR), ONE_CHANNEL).square
    assert np.allclose(square[..., 0], COLORS @ (0.299, 0.587, 0.114), rtol=1e-5)


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "LAB", "P", "1"])
def test_other_modes_are_as_pillow_converts_them(mode: str) -> None:
    image = picture(3, SIDE, SIDE).convert("LAB" if mode == "LAB" else mode)
    content = saved(image, "TIFF")
    with Image.open(io.BytesIO(content)) as opened:
        expected = np.asarray(opened.convert("RGB"))
    assert (decode_picture(content, AS_IT_IS).square == expected).all()


def test_pages_that_are_not_used_are_counted() -> None:
    pages = [picture(number) for number in range(3)]
    for kind in ("TIFF", "GIF", "WEBP"):
        content = saved(pages[0], kind, save_all=True, append_images=pages[1:])
        assert decode_picture(content, AS_IT_IS).facts.unused_pages == 2


def test_a_claim_of_too_many_pixels_is_refused_before_decoding() -> None:
    with pytest.raises(TooManyPixelsError):
        decode_picture(b"P5 60000 1100 65535\n", AS_IT_IS)


FORMS = [
    saved(Image.fromarray(TWELVE), "PNG"),
    saved(Image.fromarray(TWELVE), "TIFF", compression="tiff_lzw"),
    tiff(TWELVE, ">", white_is_low=True),
    tiff(COLORS),
    tiff((TWELVE / 7).astype(np.float32)),
    png16(COLORS, COLOR),
    png16(np.concatenate([TWELVE[..., None], OPAQUE], axis=-1), GRAY_ALPHA),
    pnm("P5", TWELVE, 4095),
    pnm("P6", COLORS, 65535),
    pnm("P3", COLORS, 65535),
]


@given(
    st.sampled_from(FORMS),
    st.floats(0, 1),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=4),
)
def test_damaged_files_give_a_square_or_an_exception(content, cut, changes) -> None:
    damaged = bytearray(content[: int(cut * len(content))])
    for where, value in changes:
        if damaged:
            damaged[int(where * (len(damaged) - 1))] = value
    try:
        square, facts, _ = decode_picture(bytes(damaged), AS_IT_IS)
    except Exception:  # whatever it is: `decode` makes a UserError of it
        return
    assert square.shape[:2] == (SIDE, SIDE)
    assert np.isfinite(square).all()
    assert facts.low <= facts.high
