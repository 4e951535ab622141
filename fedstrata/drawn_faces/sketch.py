"""Coloured polygons for a batch of pictures, laid over one another and turned into pixels."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw

from fedstrata.drawn_faces.chances import Bools, Floats
from fedstrata.drawn_faces.shapes import column, pair, ribbon

OVERSAMPLING = 3  # polygons have hard edges: they are drawn this much larger, then averaged


@dataclass(frozen=True)
class Placement:
    """Where heads lie in their pictures; ``(n,)`` each, in picture widths and radians."""

    x: Floats
    y: Floats
    scale: Floats
    roll: Floats

    def apply(self, points: Floats) -> Floats:
        """Return head coordinates ``(n, k, 2)`` as shares of the picture's width."""
        cos, sin = column(np.cos(self.roll)), column(np.sin(self.roll))
        x, y = points[..., 0], points[..., 1]
        turned = pair(x * cos - y * sin, x * sin + y * cos)
        return turned * self.scale[:, None, None] + pair(column(self.x), column(self.y))


@dataclass
class Sketch:
    """Polygons in painting order for ``n`` pictures; later ones cover earlier ones."""

    placement: Placement
    _layers: list[tuple[NDArray[np.float32], NDArray[np.uint8], Bools]] = field(
        default_factory=list
    )

    def __len__(self) -> int:
        return len(self.placement.x)

    def fill(
        self,
        outline: Floats,
        colour: ArrayLike,
        *,
        alpha: ArrayLike = 1.0,
        shown: ArrayLike = True,
        placed: bool = True,
    ) -> None:
        """Add one polygon to every picture where it is shown.

        Parameters
        ----------
        outline : NDArray[np.float64]
            Corners, shape ``(n, k, 2)``: head coordinates, or picture widths if not ``placed``.
        colour, alpha, shown : array_like
            0 to 255, broadcast to ``(n, 3)``; 0 to 1 and bool, broadcast to ``(n,)``.
        placed : bool
            Whether the polygon moves with the head.
        """
        n = len(self)
        outline = np.broadcast_to(outline, (n, *outline.shape[1:]))
        corners = self.placement.apply(outline) if placed else outline
        opacity = np.broadcast_to(255.0 * np.asarray(alpha, float), (n,))[:, None]
        paint = np.concatenate([np.broadcast_to(colour, (n, 3)), opacity], axis=1)
        visible = np.broadcast_to(shown, (n,)) & (opacity[:, 0] >= 1.0)
        self._layers.append(
            (corners.astype(np.float32), np.clip(paint, 0, 255).astype(np.uint8), visible)
        )

    def stroke(
        self,
        line: Floats,
        width: ArrayLike,
        colour: ArrayLike,
        *,
        alpha: ArrayLike = 1.0,
        shown: ArrayLike = True,
    ) -> None:
        """Add one line ``(n, k, 2)`` in head coordinates, ``width`` wide, to every picture."""
        self.fill(ribbon(line, width), colour, alpha=alpha, shown=shown)

    def paint(self, size: int) -> NDArray[np.uint8]:
        """Return the pictures, uint8 of shape ``(n, size, size, 3)``."""
        fine = size * OVERSAMPLING
        pictures = np.empty((len(self), size, size, 3), np.uint8)
        layers = [
            ((corners * fine).reshape(len(self), -1), paint.tolist(), visible.tolist())
            for corners, paint, visible in self._layers
        ]
        for index in range(len(self)):
            canvas = Image.new("RGB", (fine, fine))
            opaque, glazing = ImageDraw.Draw(canvas), ImageDraw.Draw(canvas, "RGBA")
            for corners, paint, visible in layers:
                if visible[index]:
                    red, green, blue, alpha = paint[index]
                    if alpha == 255:
                        opaque.polygon(corners[index].tolist(), fill=(red, green, blue))
                    else:
                        glazing.polygon(corners[index].tolist(), fill=(red, green, blue, alpha))
            pictures[index] = np.asarray(canvas.reduce(OVERSAMPLING))
        return pictures
