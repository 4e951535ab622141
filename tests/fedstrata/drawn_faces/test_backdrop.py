"""A backdrop fills the picture in the style of the camera."""

import numpy as np
import pytest

from fedstrata.drawn_faces.backdrop import paint_backdrop
from fedstrata.drawn_faces.camera import BACKDROPS, Camera
from tests.fedstrata.drawn_faces.conftest import Sitting


@pytest.mark.parametrize("style", BACKDROPS)
def test_the_whole_picture_is_filled(sitting: Sitting, style: str) -> None:
    camera = Camera(backdrop=style)
    made = sitting.painted(lambda s: paint_backdrop(s, camera, np.random.default_rng(0)))
    assert (made.max(axis=-1) > 0).all()


def test_a_plain_wall_has_one_colour_and_stripes_have_more(sitting: Sitting) -> None:
    counts = {}
    for style in ("plain", "stripes"):
        camera = Camera(backdrop=style)
        made = sitting.painted(lambda s, c=camera: paint_backdrop(s, c, np.random.default_rng(0)))  # type: ignore[misc]
        counts[style] = len(np.unique(made[0].reshape(-1, 3), axis=0))
    assert counts["plain"] == 1 < counts["stripes"]
