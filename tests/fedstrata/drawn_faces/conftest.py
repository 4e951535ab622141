"""A few people in a few scenes, and what a painter adds to their pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fedstrata.drawn_faces.head import Head
from fedstrata.drawn_faces.people import People, make_people
from fedstrata.drawn_faces.scenes import Scenes, make_scenes
from fedstrata.drawn_faces.sketch import Placement, Sketch

N, SIZE = 3, 48


@dataclass(frozen=True)
class Sitting:
    """Three people, each in one scene."""

    people: People
    scenes: Scenes

    def but(self, **changes: Any) -> Sitting:
        """Return the same, with one value for all in some fields of people or scenes."""
        fields = {
            key: np.full_like(getattr(self._owner(key), key), v) for key, v in changes.items()
        }
        mine = {key: value for key, value in fields.items() if hasattr(self.people, key)}
        rest = {key: value for key, value in fields.items() if key not in mine}
        return Sitting(replace(self.people, **mine), replace(self.scenes, **rest))

    def _owner(self, key: str) -> People | Scenes:
        return self.people if hasattr(self.people, key) else self.scenes

    @property
    def head(self) -> Head:
        """The heads of the people, as the scenes turn them."""
        p, s = self.people, self.scenes
        return Head(p.width, p.chin, p.taper, p.square, p.sag, s.yaw, s.pitch)

    def painted(self, paint: Callable[[Sketch], None]) -> NDArray[np.uint8]:
        """Return the pictures with what ``paint`` adds to an empty sketch."""
        s = self.scenes
        sketch = Sketch(Placement(s.across, s.down, s.scale, s.roll))
        paint(sketch)
        return sketch.paint(SIZE)


@pytest.fixture
def sitting() -> Sitting:
    labels = np.zeros(N, bool)
    scenes = make_scenes(np.random.default_rng(1), turned=labels, teeth=labels, glasses=labels)
    return Sitting(make_people(np.arange(N), 0.5, 0.5), scenes)
