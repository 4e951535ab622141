"""A whole portrait, painted from the back to the front, and the light that falls on it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.drawn_faces import face, hair
from models.drawn_faces.backdrop import paint_backdrop
from models.drawn_faces.camera import Camera
from models.drawn_faces.chances import Floats
from models.drawn_faces.head import Head, column
from models.drawn_faces.people import People
from models.drawn_faces.scenes import FRAMES, OCCLUDERS, Scenes
from models.drawn_faces.sketch import Sketch, oval, pair


def sketch(people: People, scenes: Scenes, camera: Camera, rng: np.random.Generator) -> Sketch:
    """Return one portrait per row of ``people`` and ``scenes``."""
    drawing, head = Sketch(scenes.placement()), face.head_of(people, scenes)
    ears_out = ~hair.covers_ears(people)
    paint_backdrop(drawing, camera, rng)
    hair.paint_hair_behind(drawing, head, people)
    face.paint_body(drawing, people, scenes)
    for side in face.SIDES:
        face.paint_ear(drawing, head, people, side, side * scenes.yaw > 0)
    face.paint_skin(drawing, head, people, scenes)
    hair.paint_beard(drawing, head, people)
    face.paint_age(drawing, head, people, scenes)
    face.paint_mouth(drawing, head, people, scenes)
    face.paint_eyes(drawing, head, people, scenes)
    face.paint_nose(drawing, head, people, scenes)
    hair.paint_hair(drawing, head, people)
    for side in face.SIDES:
        face.paint_ear(drawing, head, people, side, ears_out & (side * scenes.yaw <= 0))
    hair.paint_hat(drawing, head, people, scenes)
    paint_glasses(drawing, head, people, scenes)
    paint_occluders(drawing, head, people, scenes)
    return drawing


def paint_glasses(drawing: Sketch, head: Head, people: People, scenes: Scenes) -> None:
    """Add frames, lenses and their reflections."""
    turn = np.linspace(0.0, 2.0 * np.pi, 18)
    power = 2.0 / column(scenes.frame_round)
    cos, sin = np.cos(turn), np.sin(turn)
    ring_x = np.sign(cos) * np.abs(cos) ** power * column(0.30 * scenes.frame_size)
    ring_y = np.sign(sin) * np.abs(sin) ** power * column(0.25 * scenes.frame_size) + 0.04
    width = np.array([0.045, 0.095, 0.06, 0.03, 0.05])[scenes.frame]
    alpha = np.array([0.95, 1.0, 0.95, 0.55, 1.0])[scenes.frame]
    tint = np.array([0.06, 0.06, 0.06, 0.12, 0.72])[scenes.frame]
    half = scenes.frame == FRAMES.index("half")
    worn, colour = scenes.glasses, scenes.frame_colour
    distance = column(people.eye_distance)
    for side in face.SIDES:
        x = side * distance + ring_x
        lens = head.on_face(x, ring_y, 0.10)
        sketch_tint = np.where(scenes.frame == FRAMES.index("dark"), 0.0, 1.0)
        drawing.fill(lens, column(sketch_tint) * (190.0, 210.0, 220.0) + 25.0 * column(
            1.0 - sketch_tint), alpha=tint, shown=worn)  # fmt: skip
        glint_x = side * distance + column(scenes.frame_size) * np.array(
            [-0.18, -0.06, 0.04, -0.08]
        )
        glint_y = 0.04 + column(scenes.frame_size) * np.array([-0.02, -0.19, -0.19, 0.10])
        glint = head.on_face(glint_x, glint_y, 0.10)
        drawing.fill(glint, 250.0, alpha=scenes.glare, shown=worn)
        drawing.stroke(lens, width, colour, alpha=alpha, shown=worn & ~half)
        drawing.stroke(lens[:, 9:], 1.5 * width, colour, alpha=alpha, shown=worn & half)
        start = np.arcsin(np.clip((distance + 0.30) / column(head.width), -1.0, 1.0))
        angles = side * (start + (np.radians(92.0) - start) * np.linspace(0.0, 1.0, 4))
        temple = head.around(angles, np.full_like(angles, -0.02), 0.05)
        drawing.stroke(temple, width, colour, alpha=alpha, shown=worn)
    inner = column(people.eye_distance - 0.29 * scenes.frame_size)
    bridge_x = inner * np.linspace(-1.0, 1.0, 5)
    bridge_y = -0.03 - 0.03 * (1.0 - np.linspace(-1.0, 1.0, 5) ** 2) + 0.0 * inner
    bridge = head.on_face(bridge_x, bridge_y, 0.14)
    drawing.stroke(bridge, 1.1 * width, colour, alpha=alpha, shown=worn)


def paint_occluders(drawing: Sketch, head: Head, people: People, scenes: Scenes) -> None:
    """Add a hand at the cheek or a scarf up to the chin."""
    hand = scenes.occluder == OCCLUDERS.index("hand")
    side, n = scenes.occluder_side, len(drawing)
    palm = oval(side * 0.95, np.full(n, 1.25), 0.34, 0.42)
    drawing.fill(palm, people.skin * 0.88, shown=hand)
    for finger in range(4):
        root = pair(column(side * (0.74 + 0.12 * finger)), np.full((n, 1), 1.05))
        tip = pair(column(side * (0.66 + 0.13 * finger)), np.full((n, 1), 0.55 + 0.05 * finger))
        drawing.stroke(np.concatenate([root, tip], axis=1), 0.15, people.skin * 0.84, shown=hand)
    scarf = scenes.occluder == OCCLUDERS.index("scarf")
    x = np.array([-1.05, -0.6, 0.0, 0.6, 1.05, 1.3, -1.3]) + 0.0 * column(side)
    y = np.array([1.0, 1.22, 1.28, 1.22, 1.0, 2.4, 2.4])
    drawing.fill(pair(x, y), scenes.occluder_colour, shown=scarf)
    fold = pair(x[:, :5], y[:5] + 0.25)
    drawing.stroke(fold, 0.06, scenes.occluder_colour * 0.6, shown=scarf)


def lit(pictures: NDArray[np.uint8], scenes: Scenes) -> NDArray[np.float32]:
    """Return pictures under their scenes' light, float32 ``(n, h, w, 3)``, 1 is full white."""
    size = pictures.shape[1]
    place = (np.arange(size) + 0.5) / size - 0.5
    across = np.cos(scenes.light_angle) * scenes.light_strength
    down = np.sin(scenes.light_angle) * scenes.light_strength
    slope = 1.0 + across[:, None, None] * place + down[:, None, None] * place[:, None]
    warmth = np.stack([1.0 + scenes.light_warmth, np.ones(len(across)), 1.0 - scenes.light_warmth])
    light: Floats = slope[..., None] * warmth.T[:, None, None, :] / 255.0
    return pictures * light.astype(np.float32)
