"""Chances turn uniform numbers into answers, a row at a time."""

import numpy as np
import pytest

from fedstrata.drawn_faces.chances import Chances


def dice(*columns: float) -> Chances:
    return Chances(np.array([columns]))


def test_a_uniform_number_is_scaled_to_its_range() -> None:
    assert dice(0.25).between(10.0, 20.0)[0] == 12.5


def test_a_normal_value_is_cut_at_2_2_deviations() -> None:
    extreme = dice(1.0 - 1e-12, 0.0).around(5.0, 2.0)[0]
    assert extreme == pytest.approx(5.0 + 2.2 * 2.0)


@pytest.mark.parametrize(("drawn", "index"), [(0.0, 0), (0.49, 0), (0.51, 2), (0.99, 2)])
def test_an_index_is_picked_by_weight_and_never_one_of_weight_zero(
    drawn: float, index: int
) -> None:
    assert dice(drawn).pick((1.0, 0.0, 1.0))[0] == index


def test_a_row_does_not_depend_on_the_other_rows() -> None:
    uniforms = np.random.default_rng(0).random((5, 20))
    many, one = Chances(uniforms), Chances(uniforms[3:4])
    for _ in range(3):
        assert many.around(0.0, 1.0)[3] == one.around(0.0, 1.0)[0]
        assert many.yes(0.5)[3] == one.yes(0.5)[0]


def test_a_colour_is_between_two_neighbours_of_the_palette() -> None:
    found = dice(0.25, 0.5, 0.5, 0.5).colour(((0, 0, 0), (100, 200, 40)), 8.0)
    assert found.tolist() == [[25.0, 50.0, 10.0]]
