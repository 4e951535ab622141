"""Skin, ears, nose, the marks of age, and the body that carries the head."""

from __future__ import annotations

import numpy as np

from fedstrata.drawn_faces.chances import Bools
from fedstrata.drawn_faces.head import SIDES, Head
from fedstrata.drawn_faces.people import People
from fedstrata.drawn_faces.scenes import Scenes
from fedstrata.drawn_faces.shapes import column, pair, there_and_back
from fedstrata.drawn_faces.sketch import Sketch

_FRECKLES = ((0.40, 0.30), (0.55, 0.36), (0.34, 0.42), (0.48, 0.46))
_SHADOWS = (30.0, 48.0, 64.0)  # degrees from the middle of the face at which shadows begin


def paint_body(sketch: Sketch, people: People, scenes: Scenes) -> None:
    """Add neck, shoulders and clothes."""
    broad = column(0.46 + 0.035 * people.square)
    shift = 0.12 * column(np.sin(scenes.yaw))
    neck = broad * np.array([-1.0, 1.0, 1.15, -1.15]) - shift
    sketch.fill(pair(neck, np.array([0.5, 0.5, 1.9, 1.9])), people.skin * 0.80)
    under_chin = broad * np.array([-1.0, 1.0, 0.8, -0.8]) - shift
    dark = pair(under_chin, np.array([0.9, 0.9, 1.5, 1.5]))
    sketch.fill(dark, people.skin * 0.6, alpha=0.45)
    x = np.array([[-3.0, -1.5, -0.62, 0.0, 0.62, 1.5, 3.0, 3.0, -3.0]])
    y = np.array([[2.3, 1.82, 1.55, 1.85, 1.55, 1.82, 2.3, 4.0, 4.0]])
    sketch.fill(pair(x, y), scenes.clothes)


def paint_ear(sketch: Sketch, head: Head, people: People, side: float, shown: Bools) -> None:
    """Add one ear, a plate that stands off the side of the head."""
    turn = np.linspace(0.0, 2.0 * np.pi, 12, endpoint=False)
    size = column(people.ear_size)
    for scale, shade in ((1.0, 0.92), (0.55, 0.72)):
        y = 0.14 + size * scale * np.sin(turn)
        back = 1.0 + scale * np.cos(turn)
        x = side * (column(head.width) - 0.04 + 0.32 * size * back)
        outline = head.turn(x, y, 0.05 - 0.5 * size * back)
        sketch.fill(outline, people.skin * shade, shown=shown)


def paint_skin(sketch: Sketch, head: Head, people: People, scenes: Scenes) -> None:
    """Add the bare head, darker on the side away from the light, with cheeks and freckles."""
    sketch.fill(head.outline(), people.skin)
    steps = np.linspace(-1.3, 0.97, 10)
    y = np.where(steps > 0.0, steps * column(head.chin), steps)
    for side in SIDES:
        away = np.clip(-side * np.cos(scenes.light_angle), 0.0, 1.0) * scenes.light_strength
        for degrees in _SHADOWS:
            begin = head.around(side * np.radians(degrees) - column(head.yaw), y)
            shadow = there_and_back(begin, head.edge(y, side))
            sketch.fill(shadow, people.skin * 0.45, alpha=0.10 + 0.8 * away)
        cheek = head.patch(side * 0.52, 0.42, 0.20, 0.15)
        sketch.fill(cheek, people.skin * (1.0, 0.78, 0.76), alpha=0.4 * people.lip_redness)
        for across, down in _FRECKLES:
            spot = head.patch(side * across, down, 0.035, 0.035)
            sketch.fill(spot, people.skin * 0.6, alpha=people.freckles)


def paint_nose(sketch: Sketch, head: Head, people: People, scenes: Scenes) -> None:
    """Add the nose: a ridge that hides part of a turned face, its shaded sides and nostrils."""
    wide, low = column(people.nose_width), column(people.nose_length)
    tip = 0.10 + column(people.nose_bridge)
    ridge = head.on_face(
        np.zeros((1, 2)), np.concatenate([0.0 * low - 0.1, low], axis=1),
        np.concatenate([0.0 * tip + 0.12, tip + 0.04], axis=1),
    )  # fmt: skip
    x = wide * np.array([0.35, 0.30, 0.95, 0.5])
    y = np.concatenate([0.0 * low - 0.12, 0.5 * low, low - 0.02, low + 0.07], axis=1)
    lift = 0.10 + column(people.nose_bridge) * np.array([0.0, 0.5, -0.4, 1.0])
    left, right = (head.on_face(side * x, y, lift) for side in SIDES)
    sketch.fill(there_and_back(left, right), people.skin * 1.02, alpha=0.75)
    for side, flank in zip(SIDES, (left, right), strict=True):
        dark = np.clip(0.30 - side * 0.40 * np.cos(scenes.light_angle), 0.06, 0.6)
        sketch.fill(there_and_back(flank, ridge), people.skin * 0.55, alpha=dark)
        nostril_x, nostril_y = side * 0.5 * people.nose_width, people.nose_length + 0.05
        nostril = head.patch(nostril_x, nostril_y, 0.07, 0.035, 0.10)
        sketch.fill(nostril, people.skin * 0.32, alpha=0.8)
    sketch.stroke(ridge, 0.07, people.skin * 1.25, alpha=0.4)
    base = np.linspace(-1.0, 1.0, 5)
    sketch.stroke(
        head.on_face(0.9 * wide * base, low + 0.09 - 0.05 * base**2, 0.04), 0.05,
        people.skin * 0.5, alpha=0.5,
    )  # fmt: skip


def paint_age(sketch: Sketch, head: Head, people: People, scenes: Scenes) -> None:
    """Add wrinkles, folds and bags under the eyes, each as strong as the person has it."""
    ink, span = people.skin * 0.42, np.linspace(-1.0, 1.0, 7)
    for height, reach in ((-0.56, 0.44), (-0.68, 0.50), (-0.80, 0.42)):
        y = height - column(scenes.brow_lift) + 0.03 * np.cos(3.0 * span + 9.0 * height)
        sketch.stroke(head.on_face(reach * span, y), 0.06, ink, alpha=0.85 * people.wrinkles)
    for side in SIDES:
        jowl = head.on_face(side * (0.50 + 0.04 * span), 0.96 + 0.12 * span)
        sketch.stroke(jowl, 0.05, ink, alpha=0.6 * people.wrinkles)
        bag_x = column(side * people.eye_distance) + 0.9 * column(people.eye_width) * span
        bag = head.on_face(bag_x, 0.20 - 0.10 * span**2)
        sketch.stroke(bag, 0.05, ink, alpha=0.75 * people.bags)
        _paint_fold(sketch, head, people, scenes, side)
        corner = column(side * (people.eye_distance + people.eye_width + 0.05))
        for tilt in (-0.10, 0.0, 0.10):
            fan = 0.02 + tilt * np.array([0.5, 1.0, 1.6])
            foot = head.on_face(corner + side * np.array([0.0, 0.08, 0.15]), fan)
            sketch.stroke(foot, 0.035, ink, alpha=0.8 * people.wrinkles)


def _paint_fold(sketch: Sketch, head: Head, people: People, scenes: Scenes, side: float) -> None:
    """Add the fold from nose to mouth, which a smile deepens at any age."""
    down = np.linspace(0.0, 1.0, 5)
    start, end = column(people.nose_width + 0.06), column(people.mouth_width + 0.12)
    nose, mouth = column(people.nose_length), column(people.mouth_height + 0.1)
    line = head.on_face(side * (start + (end - start) * down**0.8), nose + (mouth - nose) * down)
    depth = np.clip(people.folds + np.clip(1.2 * scenes.smile, 0.0, 0.12), 0.0, 1.0)
    sketch.stroke(line, 0.055, people.skin * 0.42, alpha=0.8 * depth)
