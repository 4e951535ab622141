"""The features of a face: skin, ears, eyes, brows, nose, mouth and the marks of age."""

from __future__ import annotations

import numpy as np

from models.drawn_faces.chances import Bools, Floats
from models.drawn_faces.head import Head, column
from models.drawn_faces.people import People
from models.drawn_faces.scenes import MOUTHS, Scenes
from models.drawn_faces.sketch import Sketch, oval, pair

SIDES = (-1.0, 1.0)
_ACROSS = np.linspace(-1.0, 1.0, 9)  # along a lip or a lid, from the left corner to the right one


def head_of(people: People, scenes: Scenes) -> Head:
    """Return the people's heads in the scenes' poses."""
    return Head(
        width=people.width,
        chin=people.chin,
        taper=people.taper,
        square=people.square,
        sag=people.sag,
        yaw=scenes.yaw,
        pitch=scenes.pitch,
    )


def paint_body(sketch: Sketch, people: People, scenes: Scenes) -> None:
    """Add neck, shoulders and clothes."""
    broad = 0.46 + 0.16 * people.square / 4.5
    shift = 0.12 * column(np.sin(scenes.yaw))
    neck = column(broad) * np.array([-1.0, 1.0, 1.15, -1.15]) - shift
    sketch.fill(pair(neck, np.array([0.5, 0.5, 1.9, 1.9])), people.skin * 0.80)
    shade = column(broad) * np.array([-1.0, 1.0, 0.8, -0.8]) - shift
    sketch.fill(pair(shade, np.array([0.9, 0.9, 1.5, 1.5])), people.skin * 0.6, alpha=0.45)
    x = np.array([-3.0, -1.5, -0.62, 0.0, 0.62, 1.5, 3.0, 3.0, -3.0])
    y = np.array([2.3, 1.82, 1.55, 1.85, 1.55, 1.82, 2.3, 4.0, 4.0])
    sketch.fill(pair(x + column(0.0 * broad), y), scenes.clothes)


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
    outline = head.outline()
    sketch.fill(outline, people.skin)
    y = np.linspace(-1.3, 0.97, 10) * np.where(np.linspace(-1.3, 0.97, 10) > 0, 1.0, 1.0)
    y = np.where(y > 0, y * column(head.chin), y)
    sideways = np.cos(scenes.light_angle)
    for side in SIDES:
        for degrees in (30.0, 48.0, 64.0):
            inner = head.around(np.full_like(y, side * np.radians(degrees)) - column(head.yaw), y)
            shadow = np.concatenate([inner, head.edge(y, side)[:, ::-1]], axis=1)
            dark = np.clip(-side * sideways, 0.0, 1.0) * scenes.light_strength
            sketch.fill(shadow, people.skin * 0.45, alpha=0.10 + 0.8 * dark)
    for side in SIDES:
        cheek = _patch(head, side * 0.52, 0.42, 0.20, 0.15)
        sketch.fill(cheek, people.skin * (1.0, 0.78, 0.76), alpha=0.4 * people.lip_redness)
        for x, y_spot in ((0.40, 0.30), (0.55, 0.36), (0.34, 0.42), (0.48, 0.46)):
            spot = _patch(head, side * x, y_spot, 0.035, 0.035, 6)
            sketch.fill(spot, people.skin * 0.6, alpha=people.freckles)


def paint_eyes(sketch: Sketch, head: Head, people: People, scenes: Scenes) -> None:
    """Add eyes with lids and lashes, and the brows."""
    for side in SIDES:
        outward = side * _ACROSS
        height = column(people.eye_height * scenes.squint)
        middle = column(people.eye_slant) * outward
        droop = column(people.lid_droop) * np.clip(outward + 0.2, 0.0, None)
        upper = middle + droop - height * (1.0 - _ACROSS**2) ** 0.75
        lower = np.maximum(middle + 0.75 * height * (1.0 - _ACROSS**2), upper)
        x = column(side * people.eye_distance) + column(people.eye_width) * _ACROSS
        socket = np.concatenate([x, x[:, ::-1]], axis=1)
        hollow = np.concatenate([upper - 0.13, lower[:, ::-1] + 0.08], axis=1)
        sketch.fill(head.on_face(socket, hollow), people.skin * 0.6, alpha=0.22)
        paint = people.lip_redness * np.clip(people.lashes, 0.0, 1.0)
        lid = np.concatenate([upper - 0.09, upper[:, ::-1]], axis=1)
        sketch.fill(
            head.on_face(socket, lid), people.skin * (0.62, 0.5, 0.62), alpha=0.15 + 0.45 * paint
        )
        white = np.concatenate([upper, lower[:, ::-1]], axis=1)
        sketch.fill(head.on_face(socket, white), (236.0, 232.0, 228.0))
        _paint_iris(sketch, head, people, scenes, side, upper, lower)
        _paint_lid(sketch, head, people, side, x, upper)
        _paint_brow(sketch, head, people, scenes, side)


def _paint_iris(
    sketch: Sketch, head: Head, people: People, scenes: Scenes, side: float, upper: Floats,
    lower: Floats,
) -> None:  # fmt: skip
    """Add iris, pupil and a light reflex, cut off by the lids."""
    turn = np.linspace(0.0, 2.0 * np.pi, 10, endpoint=False)
    look = column(scenes.gaze * people.eye_width)
    for radius, colour in ((0.105, people.eye_colour), (0.05, np.array([16.0, 14.0, 14.0]))):
        offset = look + radius * np.cos(turn)
        place = np.clip(offset / column(people.eye_width), -1.0, 1.0)
        top, bottom = _along(upper, place), _along(lower, place)
        y = np.clip(radius * np.sin(turn) - 0.01, top, bottom)
        sketch.fill(head.on_face(column(side * people.eye_distance) + offset, y), colour)
    reflex = _patch(head, side * people.eye_distance + look[:, 0] - 0.035, -0.03, 0.022, 0.022, 6)
    sketch.fill(reflex, 255.0, alpha=0.8)


def _paint_lid(
    sketch: Sketch, head: Head, people: People, side: float, x: Floats, upper: Floats
) -> None:
    """Add the upper lid's line and, by the length of the lashes, a wing beyond its corner."""
    dark = people.brow_colour * 0.45
    strong = people.lashes
    sketch.stroke(head.on_face(x, upper), 0.03 + 0.045 * strong, dark, alpha=0.9)
    corner = column(side * (people.eye_distance + people.eye_width))
    tip = corner + side * 0.12 * column(strong)
    wing_x = np.concatenate([corner - side * 0.06, corner, tip], axis=1)
    rise = column(people.eye_slant + people.lid_droop) - column(strong) * np.array(
        [0.03, 0.02, 0.1]
    )
    sketch.stroke(head.on_face(wing_x, rise), 0.045, dark, alpha=0.9, shown=strong > 0.3)


def _paint_brow(sketch: Sketch, head: Head, people: People, scenes: Scenes, side: float) -> None:
    """Add one brow, thickest near the nose."""
    outward = np.linspace(-1.0, 1.0, 6)
    x = side * (column(people.eye_distance) + 0.27 * outward)
    arch = column(people.brow_arch) * (1.0 - (outward - 0.25) ** 2)
    y = -column(people.brow_height * 0.86 + scenes.brow_lift) - arch
    thick = column(people.brow_thickness) * np.array([0.9, 1.0, 1.0, 0.9, 0.7, 0.4])
    sketch.stroke(head.on_face(x, y, 0.03), thick, people.brow_colour, alpha=0.88)


def paint_nose(sketch: Sketch, head: Head, people: People, scenes: Scenes) -> None:
    """Add the nose: a ridge that hides part of a turned face, its shaded side and nostrils."""
    wide, low = column(people.nose_width), column(people.nose_length)
    bridge = 0.35 * wide
    x = np.concatenate([-bridge, -0.8 * bridge, -0.95 * wide, -0.5 * wide, 0.5 * wide,
                        0.95 * wide, 0.8 * bridge, bridge], axis=1)  # fmt: skip
    y = np.concatenate([-0.12 + 0 * low, 0.5 * low, low - 0.02, low + 0.07, low + 0.07,
                        low - 0.02, 0.5 * low, -0.12 + 0 * low], axis=1)  # fmt: skip
    tip = column(people.nose_bridge)
    lift = np.concatenate([0.1 + 0 * tip, 0.1 + 0.5 * tip, 0.04 + 0 * tip, 0.10 + tip,
                           0.10 + tip, 0.04 + 0 * tip, 0.1 + 0.5 * tip, 0.1 + 0 * tip],
                          axis=1)  # fmt: skip
    sketch.fill(head.on_face(x, y, lift), people.skin * 1.02, alpha=0.75)
    for side in SIDES:
        rows = slice(0, 4) if side < 0 else slice(4, 8)
        ridge = head.on_face(np.concatenate([0 * low, 0 * low], axis=1),
                             np.concatenate([low, -0.1 + 0 * low], axis=1),
                             np.concatenate([0.14 + tip, 0.12 + 0 * tip], axis=1))  # fmt: skip
        flank = head.on_face(x, y, lift)[:, rows]
        outline = np.concatenate([flank, ridge if side < 0 else ridge[:, ::-1]], axis=1)
        dark = np.clip(0.25 - side * np.cos(scenes.light_angle) * 0.35, 0.08, 0.5)
        sketch.fill(outline, people.skin * 0.6, alpha=dark)
        nostril = _patch(head, side * 0.5 * people.nose_width, people.nose_length + 0.05,
                         0.06, 0.032, 8, lift=0.10)  # fmt: skip
        sketch.fill(nostril, people.skin * 0.32, alpha=0.8)


def paint_mouth(sketch: Sketch, head: Head, people: People, scenes: Scenes) -> None:
    """Add lips and, where the mouth is open, what is seen inside."""
    kind = scenes.mouth
    opened = kind >= MOUTHS.index("dark")
    arc = 1.0 - _ACROSS**2
    width = people.mouth_width * (1.0 + 1.2 * np.clip(scenes.smile, 0.0, None))
    x = column(width) * _ACROSS
    line = column(people.mouth_height) - 1.6 * column(scenes.smile) * (_ACROSS**2 - 0.35)
    gap = column(np.where(opened, scenes.opening, 0.0)) * arc**0.7
    upper, lower = line - 0.35 * gap, line + 0.65 * gap
    bow = arc**0.6 * (1.0 - 0.25 * np.exp(-((_ACROSS / 0.22) ** 2)))
    top = upper - column(people.lip_fullness) * bow
    bottom = lower + 1.25 * column(people.lip_fullness) * arc**0.6
    blush = column(np.clip(people.lip_redness, 0.0, 1.0))
    colour = people.skin * (0.80, 0.58, 0.56) * (1.0 - blush) + scenes.lipstick * blush
    around = np.concatenate([x, x[:, ::-1]], axis=1)
    sketch.fill(head.on_face(around, np.concatenate([top, bottom[:, ::-1]], 1), 0.03), colour)
    inside = head.on_face(around, np.concatenate([upper, lower[:, ::-1]], axis=1), 0.02)
    sketch.fill(inside, (58.0, 18.0, 22.0), shown=opened)
    sketch.stroke(head.on_face(x, line, 0.03), 0.04, colour * 0.4, alpha=0.9, shown=~opened)
    tongue = _patch(head, 0.0 * width, people.mouth_height + 0.45 * scenes.opening,
                    0.45 * width, 0.22 * scenes.opening, 10)  # fmt: skip
    sketch.fill(tongue, (176.0, 84.0, 88.0), alpha=0.75, shown=kind == MOUTHS.index("dark"))
    _paint_teeth(sketch, head, scenes, x, upper, lower)
    gloss_y = column(people.mouth_height + 0.62 * people.lip_fullness) + 0.0 * x
    gloss = head.on_face(0.5 * x, gloss_y - 1.6 * column(scenes.smile) * (0.25 * _ACROSS**2 - 0.35))
    sketch.stroke(gloss, 0.05, colour * 0.3 + 175.0, alpha=0.75,
                  shown=kind == MOUTHS.index("glossy"))  # fmt: skip
    shadow = head.on_face(0.6 * x, bottom + 0.06)
    sketch.stroke(shadow, 0.06, people.skin * 0.55, alpha=0.35)


def _paint_teeth(
    sketch: Sketch, head: Head, scenes: Scenes, x: Floats, upper: Floats, lower: Floats
) -> None:
    """Add the upper row of teeth and, in a grin, the lower one."""
    shares = np.zeros(len(MOUTHS))
    for name, share in (("smile", 0.78), ("grin", 1.0), ("talking", 0.5)):
        shares[MOUTHS.index(name)] = share
    share = column(shares[scenes.mouth])
    edge = upper + share * (lower - upper)
    shown = shares[scenes.mouth] > 0
    row = np.concatenate([x, x[:, ::-1]], axis=1) * 0.94
    teeth = head.on_face(row, np.concatenate([upper, edge[:, ::-1]], axis=1), 0.02)
    sketch.fill(teeth, scenes.teeth_colour, shown=shown)
    for index in (2, 3, 4, 5, 6):
        gap_x = np.repeat(0.94 * x[:, index : index + 1], 2, axis=1)
        gap_y = np.stack([upper[:, index], edge[:, index]], axis=1)
        sketch.stroke(head.on_face(gap_x, gap_y, 0.02), 0.018, scenes.teeth_colour * 0.55,
                      alpha=0.45, shown=shown)  # fmt: skip
    bite = head.on_face(x * 0.9, (upper + lower) / 2.0, 0.02)
    sketch.stroke(bite, 0.025, scenes.teeth_colour * 0.45, alpha=0.7,
                  shown=scenes.mouth == MOUTHS.index("grin"))  # fmt: skip


def paint_age(sketch: Sketch, head: Head, people: People, scenes: Scenes) -> None:
    """Add folds, wrinkles and bags under the eyes, each as strong as the person has it."""
    ink = people.skin * 0.42
    span = np.linspace(-1.0, 1.0, 7)
    for height, reach in ((-0.56, 0.44), (-0.68, 0.50), (-0.80, 0.42)):
        y = height - column(scenes.brow_lift) + 0.03 * np.cos(3.0 * span + 9.0 * height)
        line = head.on_face(reach * span + 0.0 * column(people.chin), y)
        sketch.stroke(line, 0.05, ink, alpha=0.85 * people.wrinkles)
    smile = np.clip(scenes.smile * 3.0, 0.0, 0.3)
    for side in SIDES:
        start, end = people.nose_width + 0.06, people.mouth_width + 0.12
        down = np.linspace(0.0, 1.0, 5)
        x = side * (column(start) + column(end - start) * down**0.8)
        y = (
            column(people.nose_length)
            + column(people.mouth_height - people.nose_length + 0.1) * down
        )
        fold = np.clip(people.folds + 0.4 * smile, 0.0, 1.0)
        sketch.stroke(head.on_face(x, y), 0.055, ink, alpha=0.8 * fold)
        jowl = pair(side * (0.50 + 0.04 * span), 0.96 + 0.12 * span)
        jowl = head.on_face(jowl[..., 0] + 0.0 * x[:, :1], jowl[..., 1] + 0.0 * x[:, :1])
        sketch.stroke(jowl, 0.05, ink, alpha=0.6 * people.wrinkles)
        bag_x = side * column(people.eye_distance) + 0.9 * column(people.eye_width) * span
        bag_y = 0.10 + 0.10 * (1.0 - span**2) + 0.0 * bag_x
        sketch.stroke(head.on_face(bag_x, bag_y), 0.05, ink, alpha=0.75 * people.bags)
        corner = side * (people.eye_distance + people.eye_width + 0.05)
        for tilt in (-0.10, 0.0, 0.10):
            foot = head.on_face(
                column(corner) + side * np.array([0.0, 0.08, 0.15]),
                0.02 + tilt * np.array([0.5, 1.0, 1.6]) + 0 * column(corner),
            )
            sketch.stroke(foot, 0.035, ink, alpha=0.8 * people.wrinkles)


def _patch(head: Head, x: Floats | float, y: Floats | float, wide: Floats | float,
           high: Floats | float, points: int = 12, lift: float = 0.0) -> Floats:  # fmt: skip
    """Return an ellipse that lies on the face, shape ``(n, points, 2)``."""
    n = len(head.width)
    flat = oval(*(np.broadcast_to(each, (n,)) for each in (x, y, wide, high)), points)
    return head.on_face(flat[..., 0], flat[..., 1], lift)


def _along(values: Floats, places: Floats) -> Floats:
    """Interpolate ``values`` given at ``_ACROSS`` at ``places`` in [-1, 1]; both ``(n, k)``."""
    step = (places + 1.0) / 2.0 * (len(_ACROSS) - 1)
    left = np.minimum(step.astype(np.int64), len(_ACROSS) - 2)
    start = np.take_along_axis(values, left, axis=1)
    return start + (np.take_along_axis(values, left + 1, axis=1) - start) * (step - left)
