"""Eyes look where the scene says, and close with the squint."""

import numpy as np

from fedstrata.drawn_faces.eyes import paint_eyes
from tests.fedstrata.drawn_faces.conftest import Sitting


def eyes(it: Sitting) -> np.ndarray:
    return it.painted(lambda s: paint_eyes(s, it.head, it.people, it.scenes))


def test_the_gaze_moves_the_iris(sitting: Sitting) -> None:
    left, right = eyes(sitting.but(gaze=-0.6)), eyes(sitting.but(gaze=0.6))
    assert (left != right).any(axis=(1, 2, 3)).all()


def test_a_squint_shows_less_of_the_white(sitting: Sitting) -> None:
    white = {squint: (eyes(sitting.but(squint=squint)) > 200).sum() for squint in (0.3, 1.1)}
    assert white[0.3] < white[1.1]
