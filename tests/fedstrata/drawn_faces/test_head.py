"""A head is a stack of slices; what is on it is seen where the head's turn puts it."""

from dataclasses import replace

import numpy as np
import pytest

from fedstrata.drawn_faces.head import CROWN, Head
from tests.fedstrata.drawn_faces.conftest import Sitting

Y = np.array([[-0.6, 0.0, 0.6]])


@pytest.fixture
def frontal(sitting: Sitting) -> Head:
    return sitting.but(yaw=0.0, pitch=0.0).head


def test_a_frontal_face_is_seen_as_it_is(frontal: Head) -> None:
    x = np.array([[-0.3, 0.0, 0.3]])
    seen = frontal.on_face(x, Y)
    assert np.allclose(seen[..., 0], x, atol=1e-6)
    assert np.allclose(seen[..., 1], Y)


def test_a_turn_moves_the_middle_of_the_face_to_its_side(frontal: Head) -> None:
    turned = replace(frontal, yaw=np.full_like(frontal.yaw, 0.5))
    assert (turned.on_face(np.zeros((1, 3)), Y)[..., 0] > 0.1).all()


def test_a_point_on_the_far_side_is_moved_to_the_outline(frontal: Head) -> None:
    behind = frontal.around(np.full((1, 3), 2.8), Y)
    assert np.allclose(behind[..., 0], frontal.edge(Y, 1.0)[..., 0])


def test_the_outline_is_closed_over_the_crown(frontal: Head) -> None:
    outline = frontal.outline()
    assert outline[..., 1].min() == pytest.approx(CROWN)
    assert np.allclose(outline[:, 0, 0], -outline[:, -1, 0])
