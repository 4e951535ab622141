"""What people wear or hold before their faces: glasses, hats, scarves, a hand."""

from __future__ import annotations

import numpy as np

from fedstrata.drawn_faces.chances import Bools, Floats
from fedstrata.drawn_faces.head import SIDES, Head
from fedstrata.drawn_faces.people import People
from fedstrata.drawn_faces.scenes import FRAMES, OCCLUDERS, Scenes
from fedstrata.drawn_faces.shapes import column, oval, pair
from fedstrata.drawn_faces.sketch import Sketch

_LIFT = 0.10  # lenses stand this far off the face
# For each of FRAMES: width and opacity of the frame, opacity and grey of the lenses.
_WIDTHS = np.array([0.045, 0.095, 0.06, 0.03, 0.05])
_OPACITIES = np.array([0.95, 1.0, 0.95, 0.55, 1.0])
_TINTS = np.array([0.06, 0.06, 0.06, 0.12, 0.72])
_GREYS = np.array([205.0, 205.0, 205.0, 205.0, 25.0])


def paint_glasses(sketch: Sketch, head: Head, people: People, scenes: Scenes) -> None:
    """Add frames, lenses and their reflections."""
    for side in SIDES:
        _paint_lens(sketch, head, people, scenes, side)
        distance = column(people.eye_distance + 0.30 * scenes.frame_size)
        hinge = np.arcsin(np.clip(distance / column(head.width), -1.0, 1.0))
        angles = side * (hinge + (np.radians(92.0) - hinge) * np.linspace(0.0, 1.0, 4))
        _paint_wire(sketch, scenes, head.around(angles, np.full((1, 4), -0.02), 0.05))
    inner = column(people.eye_distance - 0.29 * scenes.frame_size)
    across = np.linspace(-1.0, 1.0, 5)
    _paint_wire(sketch, scenes, head.on_face(inner * across, -0.06 + 0.03 * across**2, 0.14))


def _paint_lens(sketch: Sketch, head: Head, people: People, scenes: Scenes, side: float) -> None:
    """Add one lens, rounder or squarer, with its rim and a glint across it."""
    cos, sin = np.cos(np.linspace(0.0, 2.0 * np.pi, 18)), np.sin(np.linspace(0.0, 2.0 * np.pi, 18))
    power, size = 2.0 / column(scenes.frame_round), column(scenes.frame_size)
    middle = column(side * people.eye_distance)
    x = middle + 0.30 * size * np.sign(cos) * np.abs(cos) ** power
    y = 0.04 + 0.25 * size * np.sign(sin) * np.abs(sin) ** power
    lens = head.on_face(x, y, _LIFT)
    grey = column(_GREYS[scenes.frame])
    sketch.fill(lens, grey, alpha=_TINTS[scenes.frame], shown=scenes.glasses)
    glint_x = middle + size * np.array([-0.18, -0.06, 0.04, -0.08])
    glint_y = 0.04 + size * np.array([-0.02, -0.19, -0.19, 0.10])
    glint = head.on_face(glint_x, glint_y, _LIFT)
    sketch.fill(glint, 250.0, alpha=scenes.glare, shown=scenes.glasses)
    half = scenes.frame == FRAMES.index("half")
    _paint_wire(sketch, scenes, lens, ~half)
    _paint_wire(sketch, scenes, lens[:, 9:], half)


def _paint_wire(sketch: Sketch, scenes: Scenes, line: Floats, shown: Bools | bool = True) -> None:
    """Add a part of the frame."""
    sketch.stroke(
        line,
        _WIDTHS[scenes.frame],
        scenes.frame_colour,
        alpha=_OPACITIES[scenes.frame],
        shown=scenes.glasses & shown,
    )


def paint_hand(sketch: Sketch, people: People, scenes: Scenes) -> None:
    """Add a hand at the cheek."""
    shown, side = scenes.occluder == OCCLUDERS.index("hand"), column(scenes.occluder_side)
    sketch.fill(oval(0.95 * side, 1.25, 0.34, 0.42), people.skin * 0.88, shown=shown)
    for finger in range(4):
        x = side * np.array([0.74 + 0.12 * finger, 0.66 + 0.13 * finger])
        line = pair(x, np.array([1.05, 0.55 + 0.05 * finger]))
        sketch.stroke(line, 0.15, people.skin * 0.84, shown=shown)


def paint_scarf(sketch: Sketch, scenes: Scenes) -> None:
    """Add a scarf up to the chin."""
    shown = scenes.occluder == OCCLUDERS.index("scarf")
    x = np.array([[-1.05, -0.6, 0.0, 0.6, 1.05, 1.3, -1.3]])
    y = np.array([[1.0, 1.22, 1.28, 1.22, 1.0, 2.4, 2.4]])
    sketch.fill(pair(x, y), scenes.occluder_colour, shown=shown)
    fold = pair(x[:, :5], y[:, :5] + 0.25)
    sketch.stroke(fold, 0.06, scenes.occluder_colour * 0.6, shown=shown)
