"""What is behind the head: the walls of a site's rooms."""

from __future__ import annotations

import numpy as np

from fedstrata.drawn_faces.camera import BACKDROPS, Camera
from fedstrata.drawn_faces.chances import Chances, Floats
from fedstrata.drawn_faces.shapes import column, oval, pair
from fedstrata.drawn_faces.sketch import Sketch

_COLUMNS = 64
_BANDS = 5


def paint_backdrop(sketch: Sketch, camera: Camera, rng: np.random.Generator) -> None:
    """Fill the whole picture in the camera's style; ``rng`` gives the same draws to any camera."""
    dice = Chances(rng.random((len(sketch), _COLUMNS)))
    wall, pattern = dice.colour(camera.palette, 18.0), dice.colour(camera.palette, 18.0)
    style = dice.pick([camera.backdrop in (each, "any") for each in BACKDROPS[:-1]])
    sketch.fill(_box(0.0, 0.0, 1.0, 1.0), wall, placed=False)
    slant = dice.between(-0.3, 0.3)
    for band in range(1, _BANDS):
        low = band / _BANDS + slant / 4.0
        sketch.fill(_box(0.0, low, 1.0, 1.0), pattern, alpha=0.22, shown=style == 1, placed=False)
    for band in range(_BANDS):
        left = (band + dice.between(0.1, 0.4)) / _BANDS
        wide = dice.between(0.04, 0.12)
        sketch.fill(
            _box(left, 0.0, left + wide, 1.0, slant), pattern, alpha=0.6, shown=style == 2,
            placed=False,
        )  # fmt: skip
    for _ in range(_BANDS):
        radius = dice.between(0.06, 0.24)
        disc = oval(dice.between(0.0, 1.0), dice.between(0.0, 0.8), radius, radius)
        sketch.fill(disc, pattern, alpha=0.45, shown=style == 3, placed=False)


def _box(left: Floats | float, top: Floats | float, right: Floats | float,
         bottom: Floats | float, slant: Floats | float = 0.0) -> Floats:  # fmt: skip
    """Return boxes ``(n, 4, 2)`` in picture widths; ``slant`` pushes the lower edge sideways."""
    corners = np.broadcast_arrays(*(column(each) for each in (left, top, right, bottom, slant)))
    x0, y0, x1, y1, push = (each[:, 0] for each in corners)
    return pair(
        np.stack([x0, x1, x1 + push, x0 + push], axis=1), np.stack([y0, y0, y1, y1], axis=1)
    )
