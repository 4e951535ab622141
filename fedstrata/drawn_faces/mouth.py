"""Lips, and what an open mouth shows: teeth or only the dark and the tongue."""

from __future__ import annotations

import numpy as np

from fedstrata.drawn_faces.chances import Floats
from fedstrata.drawn_faces.head import Head
from fedstrata.drawn_faces.people import People
from fedstrata.drawn_faces.scenes import MOUTHS, Scenes
from fedstrata.drawn_faces.shapes import column
from fedstrata.drawn_faces.sketch import Sketch

_ACROSS = np.linspace(-1.0, 1.0, 9)  # from the left corner of the mouth to the right one
_ARC = 1.0 - _ACROSS**2
_INSIDE, _TONGUE = (58.0, 18.0, 22.0), (186.0, 96.0, 98.0)
# How much of the opening the upper teeth fill, for each of MOUTHS.
_TEETH = np.array([0.0, 0.0, 0.0, 0.78, 1.0, 0.5])


def paint_mouth(sketch: Sketch, head: Head, people: People, scenes: Scenes) -> None:
    """Add lips, teeth, tongue and light reflexes."""
    opened = scenes.mouth >= MOUTHS.index("dark")
    x = column(people.mouth_width * (1.0 + 1.2 * np.clip(scenes.smile, 0.0, None))) * _ACROSS
    line = column(people.mouth_height) - 1.6 * column(scenes.smile) * (_ACROSS**2 - 0.35)
    gap = column(np.where(opened, scenes.opening, 0.0)) * _ARC**0.7
    upper, lower = line - 0.35 * gap, line + 0.65 * gap
    bow = _ARC**0.6 * (1.0 - 0.25 * np.exp(-((_ACROSS / 0.22) ** 2)))
    top = upper - column(people.lip_fullness) * bow
    bottom = lower + 1.25 * column(people.lip_fullness) * _ARC**0.6
    colour = _lip_colour(people, scenes)
    sketch.fill(head.band(x, top, bottom, 0.03), colour)
    sketch.stroke(head.on_face(x, line, 0.03), 0.04, colour * 0.4, alpha=0.9, shown=~opened)
    sketch.fill(head.band(x, upper, lower, 0.02), _INSIDE, shown=opened)
    tongue = head.patch(
        0.0, people.mouth_height + 0.42 * scenes.opening, 0.5 * x[:, -1], 0.24 * scenes.opening
    )
    sketch.fill(tongue, _TONGUE, alpha=0.85, shown=scenes.mouth == MOUTHS.index("dark"))
    _paint_teeth(sketch, head, scenes, x, upper, lower)
    gloss = head.on_face(0.7 * x, lower + 0.55 * column(people.lip_fullness) * _ARC**0.3)
    shine = scenes.mouth == MOUTHS.index("glossy")
    sketch.stroke(gloss, 0.07, colour * 0.2 + 0.8 * scenes.teeth_colour, alpha=0.8, shown=shine)
    sketch.stroke(head.on_face(0.6 * x, bottom + 0.06), 0.06, people.skin * 0.55, alpha=0.35)


def _lip_colour(people: People, scenes: Scenes) -> Floats:
    """Return colours between the skin's own red and the scene's lipstick, shape ``(n, 3)``."""
    blush = column(np.clip(people.lip_redness, 0.0, 1.0))
    return people.skin * (0.80, 0.58, 0.56) * (1.0 - blush) + scenes.lipstick * blush


def _paint_teeth(
    sketch: Sketch, head: Head, scenes: Scenes, x: Floats, upper: Floats, lower: Floats
) -> None:
    """Add the upper row of teeth and, in a grin, the lower one."""
    share = column(_TEETH[scenes.mouth])
    edge, shown = upper + share * (lower - upper), share[:, 0] > 0.0
    sketch.fill(head.band(0.94 * x, upper, edge, 0.02), scenes.teeth_colour, shown=shown)
    for index in range(2, len(_ACROSS) - 2):
        ends = np.stack([upper[:, index], edge[:, index]], axis=1)
        gap = head.on_face(0.94 * x[:, index : index + 1], ends, 0.02)
        sketch.stroke(gap, 0.018, scenes.teeth_colour * 0.55, alpha=0.45, shown=shown)
    bite = head.on_face(0.9 * x, (upper + lower) / 2.0, 0.02)
    both = scenes.mouth == MOUTHS.index("grin")
    sketch.stroke(bite, 0.025, scenes.teeth_colour * 0.45, alpha=0.7, shown=both)
