"""A whole portrait, painted from the back to the front, and the light that falls on it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedstrata.drawn_faces.accessories import paint_glasses, paint_hand, paint_scarf
from fedstrata.drawn_faces.backdrop import paint_backdrop
from fedstrata.drawn_faces.camera import Camera
from fedstrata.drawn_faces.eyes import paint_eyes
from fedstrata.drawn_faces.face import paint_age, paint_body, paint_ear, paint_nose, paint_skin
from fedstrata.drawn_faces.hair import (
    covers_ears,
    paint_beard,
    paint_hair,
    paint_hair_behind,
    paint_hat,
)
from fedstrata.drawn_faces.head import SIDES, Head
from fedstrata.drawn_faces.mouth import paint_mouth
from fedstrata.drawn_faces.people import People
from fedstrata.drawn_faces.scenes import Scenes
from fedstrata.drawn_faces.sketch import Placement, Sketch


def paint_portraits(
    people: People, scenes: Scenes, camera: Camera, rng: np.random.Generator
) -> Sketch:
    """Return one portrait per row of ``people`` and ``scenes``; ``rng`` is for the backdrop."""
    sketch = Sketch(Placement(scenes.across, scenes.down, scenes.scale, scenes.roll))
    head = _pose(people, scenes)
    paint_backdrop(sketch, camera, rng)
    paint_hair_behind(sketch, head, people)
    paint_body(sketch, people, scenes)
    for side in SIDES:  # the far ear is behind the head, the near one on it
        paint_ear(sketch, head, people, side, side * scenes.yaw > 0)
    paint_skin(sketch, head, people, scenes)
    paint_beard(sketch, head, people)
    paint_age(sketch, head, people, scenes)
    paint_mouth(sketch, head, people, scenes)
    paint_eyes(sketch, head, people, scenes)
    paint_nose(sketch, head, people, scenes)
    paint_hair(sketch, head, people)
    for side in SIDES:
        near = (side * scenes.yaw <= 0) & ~covers_ears(people)
        paint_ear(sketch, head, people, side, near)
    paint_hat(sketch, head, people, scenes)
    paint_glasses(sketch, head, people, scenes)
    paint_hand(sketch, people, scenes)
    paint_scarf(sketch, scenes)
    return sketch


def under_light(pictures: NDArray[np.uint8], scenes: Scenes) -> NDArray[np.float32]:
    """Return pictures under their scenes' light, float32 ``(n, h, w, 3)``, 1 is full white."""
    size = pictures.shape[1]
    place = (np.arange(size) + 0.5) / size - 0.5
    across = np.cos(scenes.light_angle) * scenes.light_strength
    down = np.sin(scenes.light_angle) * scenes.light_strength
    slope = 1.0 + across[:, None, None] * place + down[:, None, None] * place[:, None]
    warmth = np.stack([1.0 + scenes.light_warmth, np.ones(len(across)), 1.0 - scenes.light_warmth])
    light = slope[..., None] * warmth.T[:, None, None, :] / 255.0
    return np.asarray(pictures * light.astype(np.float32))


def _pose(people: People, scenes: Scenes) -> Head:
    """Return the people's heads, turned and nodding as in the scenes."""
    return Head(
        width=people.width,
        chin=people.chin,
        taper=people.taper,
        square=people.square,
        sag=people.sag,
        yaw=scenes.yaw,
        pitch=scenes.pitch,
    )
