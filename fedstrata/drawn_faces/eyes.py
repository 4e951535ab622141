"""Eyes with lids and lashes, and brows."""

from __future__ import annotations

import numpy as np

from fedstrata.drawn_faces.chances import Floats
from fedstrata.drawn_faces.head import SIDES, Head
from fedstrata.drawn_faces.people import People
from fedstrata.drawn_faces.scenes import Scenes
from fedstrata.drawn_faces.shapes import column
from fedstrata.drawn_faces.sketch import Sketch

_ACROSS = np.linspace(-1.0, 1.0, 9)  # from the left corner of an eye to the right one
_WHITE, _PUPIL = (236.0, 232.0, 228.0), (16.0, 14.0, 14.0)


def paint_eyes(sketch: Sketch, head: Head, people: People, scenes: Scenes) -> None:
    """Add both eyes and brows."""
    for side in SIDES:
        upper, lower = _lids(people, scenes, side)
        x = column(side * people.eye_distance) + column(people.eye_width) * _ACROSS
        sketch.fill(head.band(x, upper - 0.13, lower + 0.08), people.skin * 0.6, alpha=0.22)
        make_up = people.lip_redness * np.clip(people.lashes, 0.0, 1.0)
        shadow = people.skin * (0.62, 0.5, 0.62)
        sketch.fill(head.band(x, upper - 0.09, upper), shadow, alpha=0.15 + 0.45 * make_up)
        sketch.fill(head.band(x, upper, lower), _WHITE)
        _paint_iris(sketch, head, people, scenes, side)
        _paint_lashes(sketch, head, people, side, head.on_face(x, upper))
        _paint_brow(sketch, head, people, scenes, side)


def _lids(people: People, scenes: Scenes, side: float) -> tuple[Floats, Floats]:
    """Return the heights of the upper and lower lid at ``_ACROSS``, each ``(n, k)``."""
    outward = side * _ACROSS
    height = column(people.eye_height * scenes.squint)
    middle = column(people.eye_slant) * outward
    droop = column(people.lid_droop) * np.clip(outward + 0.2, 0.0, None)
    upper = middle + droop - height * (1.0 - _ACROSS**2) ** 0.75
    return upper, np.maximum(middle + 0.75 * height * (1.0 - _ACROSS**2), upper)


def _paint_iris(sketch: Sketch, head: Head, people: People, scenes: Scenes, side: float) -> None:
    """Add iris, pupil and a light reflex, cut off by the lids."""
    upper, lower = _lids(people, scenes, side)
    turn = np.linspace(0.0, 2.0 * np.pi, 10, endpoint=False)
    look = column(scenes.gaze * people.eye_width)
    for radius, colour in ((0.105, people.eye_colour), (0.05, np.array(_PUPIL))):
        offset = look + radius * np.cos(turn)
        place = np.clip(offset / column(people.eye_width), -1.0, 1.0)
        y = np.clip(radius * np.sin(turn) - 0.01, _at(upper, place), _at(lower, place))
        sketch.fill(head.on_face(column(side * people.eye_distance) + offset, y), colour)
    reflex_x = side * people.eye_distance + look[:, 0] - 0.035
    sketch.fill(head.patch(reflex_x, -0.03, 0.022, 0.022), 255.0, alpha=0.8)


def _at(lid: Floats, places: Floats) -> Floats:
    """Interpolate a lid, known at ``_ACROSS``, at ``places`` in [-1, 1]; both ``(n, k)``."""
    step = (places + 1.0) / 2.0 * (len(_ACROSS) - 1)
    left = np.minimum(step.astype(np.int64), len(_ACROSS) - 2)
    start = np.take_along_axis(lid, left, axis=1)
    return start + (np.take_along_axis(lid, left + 1, axis=1) - start) * (step - left)


def _paint_lashes(sketch: Sketch, head: Head, people: People, side: float, lid: Floats) -> None:
    """Add the upper lid's line and, by the length of the lashes, a wing beyond its corner."""
    dark, length = people.brow_colour * 0.45, column(people.lashes)
    sketch.stroke(lid, 0.03 + 0.045 * people.lashes, dark, alpha=0.9)
    corner = column(side * (people.eye_distance + people.eye_width))
    wing = corner + side * np.concatenate(
        [0.0 * length - 0.06, 0.0 * length, 0.12 * length], axis=1
    )
    rise = column(people.eye_slant + people.lid_droop) - length * np.array([0.03, 0.02, 0.1])
    sketch.stroke(head.on_face(wing, rise), 0.045, dark, alpha=0.9, shown=people.lashes > 0.3)


def _paint_brow(sketch: Sketch, head: Head, people: People, scenes: Scenes, side: float) -> None:
    """Add one brow, thickest near the nose."""
    outward = np.linspace(-1.0, 1.0, 6)
    x = side * (column(people.eye_distance) + 0.27 * outward)
    arch = column(people.brow_arch) * (1.0 - (outward - 0.25) ** 2)
    y = -column(people.brow_height * 0.86 + scenes.brow_lift) - arch
    thickness = column(people.brow_thickness) * np.array([0.9, 1.0, 1.0, 0.9, 0.7, 0.4])
    sketch.stroke(head.on_face(x, y, 0.03), thickness, people.brow_colour, alpha=0.88)
