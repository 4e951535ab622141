"""Draws labelled pictures: so many people, so many pictures, with the published shares of labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from fedstrata.drawn_faces.camera import Camera
from fedstrata.drawn_faces.chances import Bools
from fedstrata.drawn_faces.looks import looks_of
from fedstrata.drawn_faces.people import make_people
from fedstrata.drawn_faces.portrait import paint_portraits, under_light
from fedstrata.drawn_faces.scenes import make_scenes

ATTRIBUTES: tuple[str, ...] = ("gender", "age", "glasses", "pose", "teeth")
CLASSES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "gender": ("female", "male"),
        "age": ("old", "young"),
        "glasses": ("no glasses", "glasses"),
        "pose": ("frontal", "turned"),
        "teeth": ("hidden", "visible"),
    }
)
# Share of the second class, from table II of "Multi-Task and Transfer Learning for Federated
# Learning Applications".
MARGINALS: Mapping[str, float] = MappingProxyType(
    {"gender": 0.5548, "age": 0.8849, "glasses": 0.1679, "pose": 0.4841, "teeth": 0.6212}
)

_STREAM = 7300
_BATCH = 128  # pictures drawn together: enough to spread numpy's overhead, small enough for a cache


@dataclass(frozen=True)
class DrawnFaces:
    """Drawn faces.

    Parameters
    ----------
    images : NDArray[np.uint8]
        RGB pictures, shape ``(n, size, size, 3)``.
    labels : Mapping[str, NDArray[np.int64]]
        For each of ``ATTRIBUTES``, the index into ``CLASSES``, shape ``(n,)``.
    identity : NDArray[np.int64]
        Number of the person in each picture, shape ``(n,)``.
    looks : NDArray[np.float32]
        What `LOOKS` names, from 0 to 1, shape ``(n, len(LOOKS))``: nothing of it is asked of sites.
    """

    images: NDArray[np.uint8]
    labels: Mapping[str, NDArray[np.int64]]
    identity: NDArray[np.int64]
    looks: NDArray[np.float32]


def draw(
    n: int,
    *,
    seed: int,
    identities: int,
    first_identity: int = 0,
    camera: Camera | None = None,
    size: int = 64,
) -> DrawnFaces:
    """Draw pictures of people; the same arguments and libraries give the same bytes.

    A person, known by a number, keeps face, gender and age in every picture and under every seed.
    Of any range of people the shares of ``MARGINALS`` are men and young, to within one person; of
    the pictures they have glasses, turned heads and visible teeth, to within rounding.

    Parameters
    ----------
    n : int
        Number of pictures; each person gets ``n / identities`` of them, to within one.
    seed : int
        Decides everything but the people; the camera changes no other random choice.
    identities, first_identity : int
        The people are numbered from ``first_identity`` on.
    camera : Camera, optional
        The look of all pictures; ``Camera.neutral()`` if not given.
    size : int
        Height and width in pixels.

    Raises
    ------
    ValueError
        If ``n`` or ``first_identity`` is negative, or ``identities`` or ``size`` is below 1.
    """
    if n < 0 or identities < 1 or first_identity < 0 or size < 1:
        raise ValueError(
            f"cannot draw {n} pictures, {size} pixels wide, of {identities} people "
            f"from number {first_identity} on"
        )
    rng, walls, grain = np.random.default_rng((_STREAM, seed)).spawn(3)
    camera = camera or Camera.neutral()
    who = rng.permutation(np.arange(n, dtype=np.int64) % identities)
    numbers = first_identity + np.arange(min(identities, n), dtype=np.int64)
    glasses, turned, teeth = (
        _exact(n, MARGINALS[name], rng) for name in ("glasses", "pose", "teeth")
    )
    people = make_people(numbers, MARGINALS["gender"], MARGINALS["age"])
    scenes = make_scenes(rng, turned=turned, teeth=teeth, glasses=glasses)
    images = np.empty((n, size, size, 3), np.uint8)
    for start in range(0, n, _BATCH):
        rows = slice(start, min(start + _BATCH, n))
        batch, persons = scenes.take(rows), people.take(who[rows])
        painted = paint_portraits(persons, batch, camera, walls).paint(size)
        images[rows] = camera.develop(under_light(painted, batch), grain)
    labels = {
        "gender": people.male[who],
        "age": ~people.old[who],
        "glasses": glasses,
        "pose": turned,
        "teeth": teeth,
    }
    return DrawnFaces(
        images=images,
        labels={name: labels[name].astype(np.int64) for name in ATTRIBUTES},
        identity=numbers[who],
        looks=looks_of(people.take(who), scenes),
    )


def _exact(n: int, share: float, rng: np.random.Generator) -> Bools:
    """Return ``n`` shuffled flags of which ``round(n * share)`` are set."""
    return rng.permutation(np.arange(n) < round(n * share))
