"""A sketch is polygons in painting order, turned into pixels."""

import numpy as np

from fedstrata.drawn_faces.sketch import Placement, Sketch

SQUARE = np.array([[[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]])


def sketch(n: int = 2, *, roll: float = 0.0) -> Sketch:
    half = np.full(n, 0.5)
    return Sketch(Placement(half, half, np.full(n, 0.25), np.full(n, roll)))


def test_a_polygon_is_scaled_moved_and_rolled() -> None:
    corners = sketch(1, roll=np.pi / 2).placement.apply(SQUARE)
    assert np.allclose(corners[0], [[0.5, 0.5], [0.5, 0.75], [0.25, 0.75], [0.25, 0.5]])


def test_later_polygons_cover_earlier_ones_and_alpha_mixes() -> None:
    made = sketch(1)
    made.fill(SQUARE, (255, 0, 0), placed=False)
    made.fill(SQUARE, (0, 0, 255), alpha=0.5, placed=False)
    red, green, blue = made.paint(8)[0, 4, 4].tolist()
    assert green == 0
    assert abs(red - 128) < 3
    assert abs(blue - 128) < 3


def test_a_polygon_is_in_the_pictures_where_it_is_shown() -> None:
    made = sketch(2)
    made.fill(SQUARE, 255.0, shown=[True, False], placed=False)
    one, two = made.paint(8)
    assert one.min() == 255
    assert two.max() == 0
