"""A portrait is whole, and its light falls from one side."""

import numpy as np

from fedstrata.drawn_faces.camera import Camera
from fedstrata.drawn_faces.portrait import paint_portraits, under_light
from tests.fedstrata.drawn_faces.conftest import SIZE, N, Sitting


def test_every_picture_is_filled_and_no_two_are_alike(sitting: Sitting) -> None:
    sketch = paint_portraits(
        sitting.people, sitting.scenes, Camera.neutral(), np.random.default_rng(0)
    )
    made = sketch.paint(SIZE)
    assert made.shape == (N, SIZE, SIZE, 3)
    assert (made.max(axis=-1) > 0).all()
    assert len(np.unique(made.reshape(N, -1), axis=0)) == N


def test_light_from_the_right_makes_the_right_brighter(sitting: Sitting) -> None:
    it = sitting.but(light_angle=0.0, light_strength=0.3, light_warmth=0.0)
    grey = np.full((N, 8, 8, 3), 100, np.uint8)
    seen = under_light(grey, it.scenes)
    assert (seen[:, :, -1] > seen[:, :, 0]).all()
    assert np.allclose(seen.mean(), 100 / 255, atol=1e-3)


def test_warm_light_is_red(sitting: Sitting) -> None:
    it = sitting.but(light_strength=0.0, light_warmth=0.1)
    seen = under_light(np.full((N, 4, 4, 3), 100, np.uint8), it.scenes)
    assert (seen[..., 0] > seen[..., 1]).all()
    assert (seen[..., 1] > seen[..., 2]).all()
