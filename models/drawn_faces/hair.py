"""Hair on the head, hair on the chin, and the hats that hide it."""

from __future__ import annotations

import numpy as np

from models.drawn_faces.chances import Bools, Floats
from models.drawn_faces.head import CROWN, Head, column
from models.drawn_faces.people import BEARDS, HAIR_STYLES, People
from models.drawn_faces.scenes import OCCLUDERS, Scenes
from models.drawn_faces.sketch import Sketch, oval, pair

# Heights of the hair's lower edge at angles from the middle of the forehead to the nape.
_ANGLES = np.radians([0.0, 24.0, 46.0, 62.0, 70.0, 76.0, 86.0, 104.0, 130.0])
_SHORT_SIDES = (-0.30, 0.02, 0.10, -0.12, -0.16, 0.10, 0.72)
_LONG_SIDES = (-0.42, 0.10, 0.80, 1.02, 1.08, 1.08, 1.08)
# How much each of HAIR_STYLES stands off the skull, and how far it hangs down behind the neck.
_VOLUMES = np.array([0.0, 0.25, 0.8, 1.0, 1.7, 0.9, 1.1, 1.0, 0.55])
_LENGTHS = np.array([0.0, 0.0, 0.0, 0.0, 0.9, 0.0, 1.15, 1.9, 0.0])


def covers_ears(people: People) -> Bools:
    """Return whether the ears are under the hair, shape ``(n,)``."""
    return np.isin(people.hair_style, [HAIR_STYLES.index(each) for each in ("bob", "long")])


def paint_hair_behind(sketch: Sketch, head: Head, people: People) -> None:
    """Add what is seen of the hair behind head and neck."""
    length, volume = _LENGTHS[people.hair_style], 0.06 + _volume(people)
    top = _swell(head.outline(0.75), volume, taper=False)
    hem = column(length) + np.array([0.0, 0.08, 0.10, 0.06, 0.0])
    across = np.linspace(1.05, -1.05, 5) * (1.0 + 0.8 * column(volume))
    lag = -0.12 * column(np.sin(head.yaw))  # long hair hangs from the back of the head
    tail = pair(across + lag, hem)
    sketch.fill(np.concatenate([top, tail], axis=1), people.hair * 0.72, shown=length > 0)
    bun = oval(-0.5 * np.sin(head.yaw), np.full(len(sketch), CROWN - 0.08), 0.38, 0.32)
    sketch.fill(bun, people.hair * 0.8, shown=people.hair_style == HAIR_STYLES.index("tied"))


def paint_hair(sketch: Sketch, head: Head, people: People) -> None:
    """Add the hair that frames the face, with lighter strands."""
    shown = people.hair_style > 0
    outer = _swell(head.outline(0.72), _volume(people), taper=True)
    curls = 1.0 + 0.05 * np.sin(np.arange(outer.shape[1]) * 2.4) * column(
        people.hair_style == HAIR_STYLES.index("curly")
    )
    outer = outer * curls[..., None]
    angles = np.concatenate([_ANGLES[:0:-1], -_ANGLES])[None, :]
    inner = head.around(angles, _hairline(people, angles))
    sketch.fill(np.concatenate([outer, inner], axis=1), people.hair, shown=shown)
    for angle in (-0.7, -0.25, 0.2, 0.65):
        crown, low = np.full((len(sketch), 4), angle * 1.4), np.full((len(sketch), 4), angle)
        path = crown + (low - crown) * np.linspace(0.0, 1.0, 4)
        rise = CROWN * 0.97 + (_hairline(people, path) - CROWN) * np.linspace(0.0, 0.85, 4)
        line = head.around(path, rise, 0.5 * column(_volume(people)))
        sketch.stroke(line, 0.07, people.hair * 1.35 + 8.0, alpha=0.35, shown=shown)


def paint_beard(sketch: Sketch, head: Head, people: People) -> None:
    """Add stubble, moustache or full beard."""
    angles = np.radians([-82.0, -62.0, -40.0, -24.0, 0.0, 24.0, 40.0, 62.0, 82.0])[None, :]
    edge = np.array([0.20, 0.48, 0.66, 0.62, 0.64, 0.62, 0.66, 0.48, 0.20]) + 0.0 * angles
    upper = head.around(np.broadcast_to(angles, (len(sketch), 9)), np.repeat(edge, len(sketch), 0))
    steps = np.linspace(0.2, 1.0, 7)
    y = 0.20 + (column(head.chin) - 0.20) * (1.0 - (1.0 - steps) ** 2)
    lower = np.concatenate([head.edge(y, 1.0), head.edge(y, -1.0)[:, ::-1]], axis=1)
    jaw = np.concatenate([upper, lower], axis=1)
    colour = people.brow_colour * 0.9
    sketch.fill(jaw, colour, alpha=0.28, shown=people.beard == BEARDS.index("stubble"))
    sketch.fill(jaw, colour, alpha=0.88, shown=people.beard == BEARDS.index("full"))
    lip = people.mouth_height - 0.6 * people.lip_fullness
    u = np.linspace(-1.0, 1.0, 7)
    upper_edge = column(lip) - 0.15 + 0.12 * u**2
    lower_edge = column(lip) - 0.01 + 0.09 * u**2
    x = column(people.mouth_width) * 1.02 * u
    band = np.concatenate(
        [head.on_face(x, upper_edge), head.on_face(x, lower_edge)[:, ::-1]], axis=1
    )
    moustache = np.isin(people.beard, [BEARDS.index(each) for each in ("moustache", "full")])
    sketch.fill(band, colour, alpha=0.85, shown=moustache)


def paint_hat(sketch: Sketch, head: Head, people: People, scenes: Scenes) -> None:
    """Add a cap with a band over the upper forehead."""
    shown = scenes.occluder == OCCLUDERS.index("hat")
    low = -0.62 / head.chin
    cap = _swell(head.outline(low), 0.12 + _volume(people), taper=False)
    sketch.fill(cap, scenes.occluder_colour, shown=shown)
    angles = np.radians(np.linspace(-90.0, 90.0, 9))[None, :].repeat(len(sketch), 0)
    band = head.around(angles, np.full_like(angles, -0.66), 0.10)
    sketch.stroke(band, 0.16, scenes.occluder_colour * 0.7, shown=shown)


def _volume(people: People) -> Floats:
    """Return how far the hair stands off the skull, as a share of the head's size."""
    return people.hair_volume * _VOLUMES[people.hair_style]


def _swell(outline: Floats, volume: Floats, *, taper: bool) -> Floats:
    """Return an outline grown by ``volume``; tapered, the growth ends at the ears."""
    middle = np.array([0.0, -0.25])
    growth = column(volume)
    if taper:
        growth = growth * np.clip((0.35 - outline[..., 1]) / 0.9, 0.0, 1.0)
    return middle + (outline - middle) * (1.0 + growth)[..., None]


def _hairline(people: People, angles: Floats) -> Floats:
    """Return the height of the hair's lower edge at ``angles``, shape ``(n, k)``."""
    n = len(people.hair_style)
    fringe = people.hair_style == HAIR_STYLES.index("fringe")
    front = people.hairline - 0.55 * people.receding
    temple = people.hairline + 0.06 - 1.05 * people.receding
    front = np.where(fringe, -0.50 - 0.4 * people.receding, front)
    temple = np.where(fringe, -0.48 - 0.4 * people.receding, temple)
    long = covers_ears(people) | fringe
    sides = np.where(long[:, None], _LONG_SIDES, _SHORT_SIDES)
    knots = np.concatenate([np.stack([front, temple], axis=1), sides], axis=1)
    turn = np.broadcast_to(angles, (n, angles.shape[1]))
    line = np.stack([np.interp(np.abs(a), _ANGLES, k) for a, k in zip(turn, knots, strict=True)])
    parted = people.parting * np.isin(
        people.hair_style, [HAIR_STYLES.index(each) for each in ("parted", "bob", "long")]
    )
    tilt = column(parted) * np.clip(turn / 0.7, -1.0, 1.0) * (np.abs(turn) < 0.9)
    return np.maximum(line + tilt, CROWN * 0.96)
