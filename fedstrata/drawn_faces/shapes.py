"""Points of flat shapes for many pictures at once: arrays of shape ``(n, k, 2)``."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from fedstrata.drawn_faces.chances import Floats


def column(value: ArrayLike) -> Floats:
    """Return one number per picture as ``(n, 1)``, to go with points of shape ``(n, k)``."""
    return np.asarray(value, float).reshape(-1, 1)


def pair(x: Floats, y: Floats) -> Floats:
    """Return points ``(n, k, 2)`` from coordinates that broadcast to ``(n, k)``."""
    return np.stack(np.broadcast_arrays(x, y), axis=-1)


def there_and_back(out: Floats, back: Floats) -> Floats:
    """Return ``out`` followed by ``back`` reversed, along axis 1: the outline of what they span."""
    return np.concatenate([out, back[:, ::-1]], axis=1)


def oval(x: ArrayLike, y: ArrayLike, wide: ArrayLike, high: ArrayLike, points: int = 12) -> Floats:
    """Return ellipses with the given centres and half axes, shape ``(n, points, 2)``."""
    turn = np.linspace(0.0, 2.0 * np.pi, points, endpoint=False)
    return pair(column(x) + column(wide) * np.cos(turn), column(y) + column(high) * np.sin(turn))


def ribbon(line: Floats, width: ArrayLike) -> Floats:
    """Return the outline of lines ``(n, k, 2)`` drawn ``width`` wide, ``(n,)`` or ``(n, k)``."""
    along = np.gradient(line, axis=1)
    along /= np.maximum(np.linalg.norm(along, axis=-1, keepdims=True), 1e-9)
    wide = np.asarray(width, float)
    half = (wide if wide.ndim == 2 else column(wide))[..., None] / 2.0
    across = np.stack([-along[..., 1], along[..., 0]], axis=-1) * half
    return there_and_back(line + across, line - across)
