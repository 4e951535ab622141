"""Shapes are arrays of points, many pictures at once."""

import numpy as np

from fedstrata.drawn_faces.shapes import column, oval, pair, ribbon, there_and_back


def test_points_broadcast_over_pictures_and_places() -> None:
    points = pair(column([1.0, 2.0]), np.array([5.0, 6.0, 7.0]))
    assert points.shape == (2, 3, 2)
    assert points[1, 2].tolist() == [2.0, 7.0]


def test_an_outline_goes_out_and_comes_back() -> None:
    out, back = np.zeros((1, 2, 2)), np.arange(4.0).reshape(1, 2, 2)
    assert there_and_back(out, back)[0].tolist() == [[0, 0], [0, 0], [2, 3], [0, 1]]


def test_an_oval_has_its_centre_and_its_half_axes() -> None:
    points = oval(1.0, 2.0, 3.0, 0.5)[0]
    assert np.allclose(points.mean(axis=0), [1.0, 2.0])
    assert np.allclose(((points - [1.0, 2.0]) / [3.0, 0.5] ** np.array(1)) ** 2 @ [1, 1], 1.0)


def test_a_ribbon_is_as_wide_as_asked() -> None:
    line = np.array([[[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]]])
    points = ribbon(line, 0.5)[0]
    assert set(points[:, 1]) == {-0.25, 0.25}
    assert len(points) == 6
