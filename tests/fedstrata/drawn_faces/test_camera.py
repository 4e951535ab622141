"""A camera gives all its pictures one look, and changes nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from fedstrata.drawn_faces import ATTRIBUTES, Camera, draw
from fedstrata.drawn_faces.camera import BACKDROPS


def test_a_camera_changes_the_look_and_nothing_else():
    plain, *sites = (
        draw(64, seed=4, identities=8, camera=camera)
        for camera in (None, Camera.random(0), Camera.random(1), Camera.random(2))
    )
    neutral = draw(64, seed=4, identities=8, camera=Camera.neutral())
    assert np.array_equal(plain.images, neutral.images)
    for site in sites:
        assert np.array_equal(site.identity, plain.identity)
        assert all(np.array_equal(site.labels[a], plain.labels[a]) for a in ATTRIBUTES)
    looks = [each.images.mean(axis=(0, 1, 2)) for each in (plain, *sites)]
    for i, look in enumerate(looks):
        assert all(np.abs(look - other).max() > 4.0 for other in looks[:i])


def test_each_backdrop_is_seen_and_any_mixes_them():
    of = {
        backdrop: draw(24, seed=1, identities=4, camera=Camera(backdrop=backdrop)).images
        for backdrop in BACKDROPS
    }
    named = np.stack([of[backdrop] for backdrop in BACKDROPS if backdrop != "any"])
    like = (named == of["any"]).all(axis=(2, 3, 4))
    assert (like.sum(axis=0) == 1).all()
    assert like.any(axis=1).all()


def test_cameras_are_values():
    assert Camera.random(5) == Camera.random(5)
    assert Camera.random(5) != Camera.random(6)
    with pytest.raises(ValueError, match="'brick' is none of plain"):
        Camera(backdrop="brick")
