"""Hair on the head, hair on the chin, and the hats that hide it."""

from __future__ import annotations

import numpy as np

from fedstrata.drawn_faces.chances import Bools, Floats
from fedstrata.drawn_faces.head import CROWN, Head
from fedstrata.drawn_faces.people import BEARDS, HAIR_STYLES, People
from fedstrata.drawn_faces.scenes import OCCLUDERS, Scenes
from fedstrata.drawn_faces.shapes import column, oval, pair, there_and_back
from fedstrata.drawn_faces.sketch import Sketch

# Heights of the hair's lower edge at angles from the middle of the forehead to the nape; the
# first two follow from a person's hairline.
_ANGLES = np.radians([0.0, 24.0, 46.0, 62.0, 70.0, 76.0, 86.0, 104.0, 130.0])
_SHORT_SIDES = (-0.30, 0.02, 0.10, -0.12, -0.16, 0.10, 0.72)
_LONG_SIDES = (-0.42, 0.10, 0.58, 0.82, 0.88, 0.90, 0.90)
_BEARD_ANGLES = np.radians([-82.0, -62.0, -40.0, -24.0, 0.0, 24.0, 40.0, 62.0, 82.0])
_BEARD_EDGE = np.array([0.20, 0.48, 0.66, 0.62, 0.64, 0.62, 0.66, 0.48, 0.20])
# How much each of HAIR_STYLES stands off the skull, and how far it hangs down behind the neck.
_VOLUMES = np.array([0.0, 0.25, 0.8, 1.0, 1.7, 0.9, 1.1, 1.0, 0.55])
_LENGTHS = np.array([0.0, 0.0, 0.0, 0.0, 0.9, 0.0, 1.15, 1.9, 0.0])


def covers_ears(people: People) -> Bools:
    """Return whether the ears are under the hair, shape ``(n,)``."""
    return _wears(people, "bob", "long")


def paint_hair_behind(sketch: Sketch, head: Head, people: People) -> None:
    """Add what is seen of the hair behind head and neck."""
    length = column(_LENGTHS[people.hair_style])
    top = _swell(head.outline(0.3), 0.04 + _volume(people), taper=False)
    first, last = top[:, :1, 0], top[:, -1:, 0]
    across = last + (first - last) * np.array([-0.02, 0.1, 0.5, 0.9, 1.02])
    tail = pair(across, length + np.array([-0.15, 0.05, 0.10, 0.05, -0.15]))
    hanging = np.concatenate([top, tail], axis=1)
    sketch.fill(hanging, people.hair * 0.72, shown=length[:, 0] > 0.0)
    bun = oval(-0.5 * np.sin(head.yaw), CROWN - 0.08, 0.38, 0.32)
    sketch.fill(bun, people.hair * 0.8, shown=_wears(people, "tied"))


def paint_hair(sketch: Sketch, head: Head, people: People) -> None:
    """Add the hair that frames the face, with lighter strands."""
    shown = people.hair_style != HAIR_STYLES.index("bald")
    outer = _swell(head.outline(0.72), _volume(people), taper=True)
    curl = 0.05 * np.sin(2.4 * np.arange(outer.shape[1])) * column(_wears(people, "curly"))
    around = np.concatenate([_ANGLES[:0:-1], -_ANGLES])[None, :]
    inner = head.around(around, _hairline(people, around))
    sketch.fill(
        np.concatenate([outer * (1.0 + curl)[..., None], inner], axis=1), people.hair, shown=shown
    )
    down = np.linspace(0.0, 1.0, 4)
    for angle in (-0.7, -0.25, 0.2, 0.65):
        path = angle * (1.4 - 0.4 * down)[None, :]
        y = CROWN * 0.97 + (_hairline(people, path) - CROWN) * 0.85 * down
        strand = head.around(path, y, 0.5 * column(_volume(people)))
        sketch.stroke(strand, 0.07, people.hair * 1.3 + 6.0, alpha=0.25, shown=shown)


def paint_beard(sketch: Sketch, head: Head, people: People) -> None:
    """Add stubble, moustache or full beard."""
    upper = head.around(_BEARD_ANGLES, _BEARD_EDGE)
    steps = 1.0 - (1.0 - np.linspace(0.1, 1.0, 7)) ** 2
    y = 0.20 + (column(head.chin) - 0.20) * steps
    lower = there_and_back(head.edge(y, 1.0), head.edge(y, -1.0))
    jaw, colour = np.concatenate([upper, lower], axis=1), people.brow_colour * 0.9
    sketch.fill(jaw, colour, alpha=0.28, shown=people.beard == BEARDS.index("stubble"))
    sketch.fill(jaw, colour, alpha=0.88, shown=people.beard == BEARDS.index("full"))
    u = np.linspace(-1.0, 1.0, 7)
    lip = column(people.mouth_height - 0.6 * people.lip_fullness)
    x = 1.02 * column(people.mouth_width) * u
    moustache = head.band(x, lip - 0.15 + 0.12 * u**2, lip - 0.01 + 0.09 * u**2)
    worn = np.isin(people.beard, [BEARDS.index("moustache"), BEARDS.index("full")])
    sketch.fill(moustache, colour, alpha=0.85, shown=worn)


def paint_hat(sketch: Sketch, head: Head, people: People, scenes: Scenes) -> None:
    """Add a cap with a band over the upper forehead."""
    shown = scenes.occluder == OCCLUDERS.index("hat")
    cap = _swell(head.outline(-0.62 / head.chin), 0.14 + _volume(people), taper=False)
    sketch.fill(cap, scenes.occluder_colour, shown=shown)
    angles = np.radians(np.linspace(-90.0, 90.0, 9))
    band = head.around(angles, np.full_like(angles, -0.66), 0.10)
    sketch.stroke(band, 0.16, scenes.occluder_colour * 0.7, shown=shown)


def _wears(people: People, *styles: str) -> Bools:
    """Return who wears one of the named hair styles, shape ``(n,)``."""
    return np.asarray(np.isin(people.hair_style, [HAIR_STYLES.index(each) for each in styles]))


def _volume(people: People) -> Floats:
    """Return how far the hair stands off the skull, as a share of the head's size, ``(n,)``."""
    return np.asarray(people.hair_volume * _VOLUMES[people.hair_style])


def _swell(outline: Floats, volume: Floats, *, taper: bool) -> Floats:
    """Return an outline grown by ``volume``; tapered, the growth ends at the ears."""
    middle = np.array([0.0, -0.25])
    growth = column(volume)
    if taper:
        growth = growth * np.clip((0.35 - outline[..., 1]) / 0.9, 0.0, 1.0)
    return np.asarray(middle + (outline - middle) * (1.0 + growth)[..., None])


def _hairline(people: People, angles: Floats) -> Floats:
    """Return the height of the hair's lower edge at ``angles`` of shape ``(1, k)``."""
    fringe = _wears(people, "fringe")
    front = np.where(fringe, -0.50 - 0.4 * people.receding,
                     people.hairline - 0.55 * people.receding)  # fmt: skip
    temple = np.where(fringe, -0.48 - 0.4 * people.receding,
                      people.hairline + 0.06 - 1.05 * people.receding)  # fmt: skip
    sides = np.where(column(covers_ears(people) | fringe) > 0.0, _LONG_SIDES, _SHORT_SIDES)
    knots = np.concatenate([column(front), column(temple), sides], axis=1)
    turn = np.abs(angles[0])
    line = np.stack([np.interp(turn, _ANGLES, heights) for heights in knots])
    parted = column(people.parting * _wears(people, "parted", "bob", "long"))
    tilt = parted * np.clip(angles / 0.7, -1.0, 1.0) * (turn < 0.9)
    return np.asarray(np.maximum(line + tilt, CROWN * 0.96))
