"""The look that a site's camera and rooms give to all its photographs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedstrata.drawn_faces.chances import Chances

_STREAM = 7302
_ROOMS = ((226, 222, 214), (196, 206, 216), (150, 166, 160), (176, 148, 124), (112, 122, 146),
          (74, 82, 92), (204, 186, 196))  # fmt: skip

BACKDROPS = ("plain", "gradient", "stripes", "discs", "any")


@dataclass(frozen=True)
class Camera:
    """How scenes turn into photographs; :meth:`neutral` alters nothing but adds a little noise.

    Parameters
    ----------
    cast : tuple of float
        Factor per channel, red, green, blue.
    contrast, brightness : float
        Pixel values in [0, 1] become ``(value - 0.5) * contrast + 0.5 + brightness``.
    gamma : float
        Exponent applied after that.
    noise : float
        Standard deviation of the noise per pixel and channel, in [0, 1].
    blur : float
        Weight of each neighbouring row and column in a three-pixel blur, 0 to 1/3.
    backdrop : str
        One of ``BACKDROPS``.
    palette : tuple of tuple of float
        Colours of the backdrop, 0 to 255.
    """

    cast: tuple[float, float, float] = (1.0, 1.0, 1.0)
    contrast: float = 1.0
    brightness: float = 0.0
    gamma: float = 1.0
    noise: float = 0.012
    blur: float = 0.0
    backdrop: str = "any"
    palette: tuple[tuple[float, ...], ...] = _ROOMS

    def __post_init__(self) -> None:
        if self.backdrop not in BACKDROPS:
            raise ValueError(f"backdrop {self.backdrop!r} is none of {', '.join(BACKDROPS)}")

    @classmethod
    def neutral(cls) -> Camera:
        """Return the camera with no look of its own."""
        return cls()

    @classmethod
    def random(cls, seed: int) -> Camera:
        """Return one of many looks: visibly different, and every label stays visible."""
        dice = Chances(np.random.default_rng((_STREAM, seed)).random((1, 48)))
        red, green, blue = (float(dice.between(0.88, 1.08)[0]) for _ in range(3))
        return cls(
            cast=(red, green, blue),
            contrast=float(dice.between(0.75, 1.15)[0]),
            brightness=float(dice.between(-0.06, 0.06)[0]),
            gamma=float(dice.between(0.78, 1.28)[0]),
            noise=float(dice.between(0.01, 0.035)[0]),
            blur=float(dice.between(0.0, 0.2)[0]),
            backdrop=BACKDROPS[int(dice.pick((1.0, 1.0, 1.0, 1.0))[0])],
            palette=tuple(tuple(dice.colour(_ROOMS, 16.0)[0].tolist()) for _ in range(3)),
        )

    def develop(self, scenes: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.uint8]:
        """Return photographs of scenes: float32 ``(n, h, w, 3)`` in [0, 1] to uint8."""
        seen = _soften(scenes, self.blur)
        seen = (seen * np.array(self.cast, np.float32) - 0.5) * self.contrast
        seen += 0.5 + self.brightness
        np.clip(seen, 0.0, 1.0, out=seen)
        if self.gamma != 1.0:
            seen **= self.gamma
        seen += self.noise * rng.standard_normal(seen.shape, np.float32)
        return np.asarray(np.clip(seen, 0.0, 1.0) * 255.0 + 0.5, np.uint8)


def _soften(pictures: NDArray[np.float32], side: float) -> NDArray[np.float32]:
    """Blur along rows and columns with weights ``(side, 1 - 2 side, side)``."""
    if side == 0.0:
        return pictures
    for axis in (1, 2):
        before, after = np.roll(pictures, 1, axis), np.roll(pictures, -1, axis)
        pictures = (1.0 - 2.0 * side) * pictures + side * (before + after)
    return pictures
