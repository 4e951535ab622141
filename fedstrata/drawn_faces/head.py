"""The shape of a head and where a point of its face lands when the head turns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from fedstrata.drawn_faces.chances import Floats
from fedstrata.drawn_faces.shapes import column, oval, pair, there_and_back

CROWN = -1.45  # top of the skull; eyes are at 0, the chin near 1.3, half a face's width is near 1
DEPTH = 1.1  # a head is a little deeper than it is wide
SKULL_BACK = -0.08  # the skull's axis lies behind the neck's ...
CHIN_FORWARD = 0.72  # ... and the chin's lies in front of it
SIDES = (-1.0, 1.0)  # left and right in the picture of a frontal face


@dataclass(frozen=True)
class Head:
    """Heads as stacks of elliptic slices, one head per picture; every field has shape ``(n,)``.

    Parameters
    ----------
    width, chin : NDArray[np.float64]
        Half the width at the cheekbones, and the height of the chin below the eyes.
    taper, square : NDArray[np.float64]
        How much narrower the jaw is than the cheekbones (0 to 1), and how angular its corners are.
    sag : NDArray[np.float64]
        How far the lower cheeks hang outwards.
    yaw, pitch : NDArray[np.float64]
        Turn to the side and nod, radians.
    """

    width: Floats
    chin: Floats
    taper: Floats
    square: Floats
    sag: Floats
    yaw: Floats
    pitch: Floats

    def half_width(self, y: Floats) -> Floats:
        """Return half the width of the slices at heights ``y`` of shape ``(n, k)``."""
        skull = np.sqrt(np.clip(1.0 - np.abs(y / CROWN) ** 2.3, 0.0, None))
        down = np.clip(y / column(self.chin), 0.0, 1.0)
        corner = np.sqrt(np.clip(1.0 - down ** column(self.square), 0.0, None))
        hanging = column(self.sag) * np.exp(-(((down - 0.72) / 0.16) ** 2))
        jaw = (1.0 - column(self.taper) * down**1.5 + hanging) * corner
        return column(self.width) * np.where(y < 0.0, skull, jaw) + 1e-6

    def axis(self, y: Floats) -> Floats:
        """Return how far in front of the neck the slices at heights ``y`` are centred."""
        down = np.clip(y / column(self.chin), 0.0, 1.0)
        return SKULL_BACK + (CHIN_FORWARD - SKULL_BACK) * down**1.8

    def around(self, angle: Floats, y: Floats, lift: Floats | float = 0.0) -> Floats:
        """Return where surface points at an angle about the vertical axis are seen.

        Points on the far side are moved to the outline, so that shapes that wrap around the
        head stay closed.

        Parameters
        ----------
        angle, y : NDArray[np.float64]
            Radians from straight ahead and height, shape ``(n, k)``.
        lift : NDArray or float
            Distance above the surface, broadcast to ``(n, k)``.

        Returns
        -------
        NDArray[np.float64]
            Seen places, shape ``(n, k, 2)``.
        """
        half, axis = self.half_width(y), self.axis(y)
        cos, sin = np.cos(column(self.yaw)), np.sin(column(self.yaw))
        across, ahead = (half + lift) * np.sin(angle), (DEPTH * half + lift) * np.cos(angle)
        depth = ahead * cos - across * sin
        rim = np.sqrt((half * cos) ** 2 + (DEPTH * half * sin) ** 2)
        hidden = np.sign(np.sin(angle + column(self.yaw))) * rim
        seen = axis * sin + np.where(depth >= 0.0, across * cos + ahead * sin, hidden)
        return self._nod(seen, y, axis * cos + np.maximum(depth, 0.0))

    def on_face(self, x: Floats, y: Floats, lift: Floats | float = 0.0) -> Floats:
        """Return where points of the frontal face ``(x, y)`` are seen, shape ``(n, k, 2)``."""
        return self.around(np.arcsin(np.clip(x / self.half_width(y), -1.0, 1.0)), y, lift)

    def turn(self, x: Floats, y: Floats, z: Floats) -> Floats:
        """Return where points in space are seen, whatever is in front of them, ``(n, k, 2)``."""
        cos, sin = np.cos(column(self.yaw)), np.sin(column(self.yaw))
        return self._nod(x * cos + z * sin, y, z * cos - x * sin)

    def edge(self, y: Floats, side: float) -> Floats:
        """Return the outline at heights ``y`` on the left (-1) or right (1), ``(n, k, 2)``."""
        half, axis = self.half_width(y), self.axis(y)
        cos, sin = np.cos(column(self.yaw)), np.sin(column(self.yaw))
        rim = half * np.sqrt(cos**2 + (DEPTH * sin) ** 2)
        return self._nod(axis * sin + side * rim, y, axis * cos)

    def outline(self, low: ArrayLike = 1.0, points: int = 18) -> Floats:
        """Return the outline from ``low`` of the chin's height, left, over the crown, to the right.

        The points crowd where the outline bends most; shape ``(n, 2 * points, 2)``.
        """
        steps = (1.0 + np.cos(np.linspace(0.0, np.pi, points))) / 2.0
        y = CROWN + (column(low) * column(self.chin) - CROWN) * steps
        return there_and_back(self.edge(y, -1.0), self.edge(y, 1.0))

    def band(self, x: Floats, top: Floats, bottom: Floats, lift: Floats | float = 0.0) -> Floats:
        """Return what lies between two curves over the same ``x``, shape ``(n, 2 * k, 2)``."""
        return there_and_back(self.on_face(x, top, lift), self.on_face(x, bottom, lift))

    def patch(
        self, x: ArrayLike, y: ArrayLike, wide: ArrayLike, high: ArrayLike, lift: float = 0.0
    ) -> Floats:
        """Return an ellipse that lies on the face, shape ``(n, points, 2)``."""
        flat = oval(x, y, wide, high)
        return self.on_face(flat[..., 0], flat[..., 1], lift)

    def _nod(self, x: Floats, y: Floats, depth: Floats) -> Floats:
        pitch = column(self.pitch)
        return pair(x, y * np.cos(pitch) + depth * np.sin(pitch))
