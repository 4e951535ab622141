"""Squares of any depth, turned and scaled."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from client_app.data.pixels import (
    Facts,
    Preparation,
    scaled_values,
    square_of_image,
    square_of_planes,
    turned_image,
    turned_plane,
)

PLANE = np.arange(12, dtype=np.uint8).reshape(3, 4)


@pytest.mark.parametrize("orientation", range(10))
def test_planes_turn_as_images_do(orientation: int) -> None:
    expected = np.asarray(turned_image(Image.fromarray(PLANE), orientation))
    assert (turned_plane(PLANE, orientation) == expected).all()


def test_the_central_square_of_a_plane_is_that_of_an_image() -> None:
    square = square_of_planes([PLANE.astype(np.int32)], Preparation(3)).square
    image = square_of_image(Image.fromarray(PLANE), Preparation(3, channels=1))
    assert (square == image).all()


def test_the_extremes_are_those_of_the_whole_picture() -> None:
    facts = square_of_planes([np.array([[900, 1, 2, 3, 4, -7]])], Preparation(1)).facts
    assert (facts.low, facts.high, facts.colored) == (-7, 900, False)


def test_what_is_no_number_becomes_the_lowest() -> None:
    plane = np.array([[np.nan, 2.0], [3.0, np.inf]])
    square, facts, size = square_of_planes([plane], Preparation(2))
    assert size == (2, 2)
    assert square[..., 0].tolist() == [[2.0, 2.0], [3.0, 2.0]]
    assert (facts.low, facts.high) == (2.0, 3.0)
    with pytest.raises(ValueError, match="no value in it is a finite number"):
        square_of_planes([np.full((2, 2), np.nan)], Preparation(2))


def test_values_are_scaled_clipped_and_spread_over_the_channels() -> None:
    square = np.array([[[0.0], [1000.0]], [[3000.0], [5000.0]]], dtype=np.float32)
    facts = Facts(0, 5000, wide=True)
    scaled = scaled_values(square, facts, (1000, 3000), 3)
    assert scaled.shape == (2, 2, 3)
    assert scaled[..., 1].tolist() == [[0, 0], [1, 1]]
    inverted = scaled_values(square, facts._replace(inverted=True), (0, 5000), 1)
    assert np.allclose(inverted[..., 0], [[1, 0.8], [0.4, 0]])


def test_one_value_alone_becomes_zero() -> None:
    square = np.full((2, 2, 1), 7, dtype=np.float32)
    assert (scaled_values(square, Facts(7, 7, wide=True), (7, 7), 1) == 0).all()


def test_twelve_bits_keep_4096_levels() -> None:
    plane = np.arange(4096).reshape(64, 64)
    square, facts, _ = square_of_planes([plane], Preparation(64))
    scaled = scaled_values(square, facts, (0, 4095), 1)
    assert len(np.unique(scaled)) == 4096


def test_the_key_depends_on_all_of_the_preparation() -> None:
    one = Preparation(8)
    others = [replace(one, size=9), replace(one, channels=1), replace(one, background=(0, 0, 0))]
    assert len({each.key() for each in (one, *others)}) == 4
    assert one.key() == Preparation(8).key()
