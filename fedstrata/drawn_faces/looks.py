"""What a picture shows besides what sites ask: colors, hair, hats, proportions, landmarks.

It is what the public pre-training learns. The five questions are not among it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedstrata.drawn_faces.chances import Floats
from fedstrata.drawn_faces.head import SIDES, Head
from fedstrata.drawn_faces.people import HAIR_STYLES, People
from fedstrata.drawn_faces.scenes import OCCLUDERS, Scenes
from fedstrata.drawn_faces.shapes import column
from fedstrata.drawn_faces.sketch import Placement

_COLORED = ("skin", "hair", "eyes", "clothes")
# The values that become 0 and 1.
_OF_THE_SCENE = {
    "across": (0.41, 0.59),
    "down": (0.42, 0.56),
    "scale": (0.245, 0.315),
    "roll": (-0.27, 0.27),
    "pitch": (-0.15, 0.15),
    "gaze": (-0.66, 0.66),
    "brow_lift": (-0.066, 0.066),
    "light_warmth": (-0.088, 0.088),
}
# Without the traits that tell men from women, or the old from the young, such as brows and lips.
_OF_THE_PERSON = {
    "width": (0.86, 1.11),
    "chin": (1.13, 1.43),
    "hair_volume": (0.08, 0.24),
    "eye_distance": (0.36, 0.5),
    "eye_width": (0.17, 0.265),
    "eye_height": (0.06, 0.15),
    "nose_width": (0.13, 0.27),
    "mouth_width": (0.32, 0.49),
    "ear_size": (0.2, 0.38),
    "freckles": (0.0, 1.0),
}
# Places in a frontal face: left and right eye, nose, left and right corner of the mouth, chin.
_USUAL = np.array(
    [[-0.43, 0.0], [0.43, 0.0], [0.0, 0.52], [-0.42, 0.85], [0.42, 0.85], [0.0, 1.25]]
)
_LANDMARKS = ("left eye", "right eye", "nose", "left of the mouth", "right of the mouth", "chin")
_REACH = 4.0  # a quarter of the picture's width around its usual place is from 0 to 1
LOOKS: tuple[str, ...] = (
    *(f"{part}: {channel}" for part in _COLORED for channel in ("red", "green", "blue")),
    *_OF_THE_SCENE,
    *_OF_THE_PERSON,
    "light: across",
    "light: down",
    *(f"hair: {style}" for style in HAIR_STYLES),
    *(f"before the face: {what}" for what in OCCLUDERS[1:]),
    *(f"{point}: {axis}" for point in _LANDMARKS for axis in ("across", "down")),
)


def looks_of(people: People, scenes: Scenes) -> NDArray[np.float32]:
    """Return what `LOOKS` names of each picture, from 0 to 1, shape ``(n, len(LOOKS))``.

    Parameters
    ----------
    people : People
        Who is in each picture.
    scenes : Scenes
        The pictures.
    """
    parts = (people.skin, people.hair, people.eye_colour, scenes.clothes)
    values = [
        *(_between(getattr(scenes, name), *ends) for name, ends in _OF_THE_SCENE.items()),
        *(_between(getattr(people, name), *ends) for name, ends in _OF_THE_PERSON.items()),
        0.5 + 1.5 * scenes.light_strength * np.cos(scenes.light_angle),
        0.5 + 1.5 * scenes.light_strength * np.sin(scenes.light_angle),
    ]
    rows = [
        *(part / 255.0 for part in parts),
        np.stack(values, axis=1),
        people.hair_style[:, None] == np.arange(len(HAIR_STYLES)),
        scenes.occluder[:, None] == np.arange(1, len(OCCLUDERS)),
        _landmarks(people, scenes),
    ]
    found: NDArray[np.float32] = np.concatenate(rows, axis=1).clip(0.0, 1.0).astype(np.float32)
    return found


def _between(values: Floats, low: float, high: float) -> Floats:
    return (values - low) / (high - low)


def _landmarks(people: People, scenes: Scenes) -> Floats:
    """Return how far the landmarks are from their usual places, ``(n, 12)``."""
    head = Head(
        people.width, people.chin, people.taper, people.square, people.sag, scenes.yaw, scenes.pitch
    )
    none = np.zeros(len(people.width))
    mouth = people.mouth_width * (1.0 + 1.2 * np.clip(scenes.smile, 0.0, None))
    eyes = [side * people.eye_distance for side in SIDES]
    x = np.stack([*eyes, none, -mouth, mouth, none], axis=1)
    corner = people.mouth_height - 1.04 * scenes.smile
    y = np.stack([none, none, people.nose_length, corner, corner, 0.97 * people.chin], axis=1)
    lift = column(0.14 + people.nose_bridge) * np.array([0.0, 0.0, 1.0, 0.0, 0.0, 0.0])
    seen = Placement(scenes.across, scenes.down, scenes.scale, scenes.roll).apply(
        head.on_face(x, y, lift)
    )
    usual = np.array([0.5, 0.49]) + 0.28 * _USUAL
    far: Floats = 0.5 + _REACH * (seen - usual)
    return far.reshape(len(far), 2 * len(_USUAL))
