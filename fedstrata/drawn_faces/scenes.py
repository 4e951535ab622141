"""What changes from picture to picture: pose, expression, glasses, clothes, light."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from fedstrata.drawn_faces.chances import Bools, Chances, Floats, Ints

_COLUMNS = 96

FRONTAL_YAW = 12.0  # degrees: at most this much is called frontal ...
TURNED_YAW = (20.5, 38.0)  # ... and this much, to either side, is called turned
MOUTHS = ("closed", "glossy", "dark", "smile", "grin", "talking")
_HIDDEN_MOUTHS = (0.40, 0.25, 0.35, 0.0, 0.0, 0.0)
_VISIBLE_MOUTHS = (0.0, 0.0, 0.0, 0.45, 0.30, 0.25)
FRAMES = ("thin", "thick", "half", "rimless", "dark")
_FRAME_SHARES = (0.30, 0.32, 0.14, 0.10, 0.14)
OCCLUDERS = ("none", "hat", "hand", "scarf")
_FRAME_COLOURS = ((20, 18, 20), (58, 34, 22), (150, 30, 36), (40, 60, 120), (180, 150, 80))
_CLOTHES = ((30, 32, 40), (60, 80, 130), (150, 40, 44), (220, 218, 210), (70, 110, 80),
            (200, 160, 60), (120, 84, 130))  # fmt: skip


@dataclass(frozen=True)
class Scenes:
    """One row per picture; lengths as in :class:`~fedstrata.drawn_faces.people.People`, radians."""

    turned: Bools
    teeth: Bools
    glasses: Bools
    yaw: Floats
    pitch: Floats
    roll: Floats
    scale: Floats
    across: Floats
    down: Floats
    gaze: Floats
    squint: Floats
    brow_lift: Floats
    mouth: Ints
    smile: Floats
    opening: Floats
    teeth_colour: Floats
    lipstick: Floats
    frame: Ints
    frame_size: Floats
    frame_colour: Floats
    frame_round: Floats
    glare: Floats
    occluder: Ints
    occluder_colour: Floats
    occluder_side: Floats
    clothes: Floats
    light_angle: Floats
    light_strength: Floats
    light_warmth: Floats

    def take(self, rows: slice) -> Scenes:
        """Return the pictures at ``rows``."""
        return Scenes(**{each.name: getattr(self, each.name)[rows] for each in fields(self)})


def make_scenes(rng: np.random.Generator, *, turned: Bools, teeth: Bools, glasses: Bools) -> Scenes:
    """Return random scenes with the given labels, each of shape ``(n,)``."""
    dice = Chances(rng.random((len(turned), _COLUMNS)))
    straight, aside = dice.between(-1.0, 1.0) * FRONTAL_YAW, dice.sign() * dice.between(*TURNED_YAW)
    mouth = dice.pick(np.where(teeth[:, None], _VISIBLE_MOUTHS, _HIDDEN_MOUTHS))
    return Scenes(
        turned=turned,
        teeth=teeth,
        glasses=glasses,
        yaw=np.radians(np.where(turned, aside, straight)),
        pitch=np.radians(dice.around(0.0, 4.0)),
        roll=np.radians(dice.around(0.0, 7.0)),
        scale=dice.between(0.245, 0.315),
        across=dice.around(0.5, 0.04),
        down=dice.around(0.49, 0.03),
        gaze=dice.around(0.0, 0.3),
        squint=dice.between(0.75, 1.1),
        brow_lift=dice.around(0.0, 0.03),
        mouth=mouth,
        smile=dice.around(np.where(teeth, 0.07, 0.05), 0.045),
        opening=dice.between(0.08, 0.20),
        teeth_colour=dice.colour(((246, 244, 238), (190, 176, 146))),
        lipstick=dice.colour(((196, 60, 72), (150, 30, 50), (214, 110, 110))),
        frame=dice.pick(_FRAME_SHARES),
        frame_size=dice.around(1.0, 0.1),
        frame_colour=dice.colour(_FRAME_COLOURS),
        frame_round=dice.between(2.0, 5.0),
        glare=dice.between(0.0, 0.6),
        occluder=dice.pick((0.90, 0.05, 0.02, 0.03)),
        occluder_colour=dice.colour(_CLOTHES, 20.0),
        occluder_side=dice.sign(),
        clothes=dice.colour(_CLOTHES, 20.0),
        light_angle=dice.between(0.0, 2.0 * np.pi),
        light_strength=dice.between(0.03, 0.32),
        light_warmth=dice.around(0.0, 0.04),
    )
