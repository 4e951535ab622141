"""Frozen generators of pictures: what a method may ask of one, whatever it is made of."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.nn import functional


class PictureGenerator(ABC):
    """From latent vectors to pictures; it is never trained here.

    Attributes
    ----------
    latent : int
        Width of a latent vector.
    channels, size : int
        Of a picture, and its height and width in pixels.
    """

    latent: int
    channels: int
    size: int

    @abstractmethod
    def latents(self, count: int) -> Tensor:
        """Return latent vectors of pictures like those that it learned, float32 ``(count, latent)``.

        They follow from torch's generator of random numbers.
        """

    @abstractmethod
    def pictures(self, latents: Tensor) -> Tensor:
        """Return pictures for ``(n, latent)``: float32 ``(n, channels, size, size)``, 0 to 1."""

    def shaped(self, latents: Tensor, shape: tuple[int, int, int]) -> Tensor:
        """Return pictures of ``shape``: channels, height and width.

        They are scaled until both sides are long enough, and cut around their middle. A gray picture
        is the mean of the channels; other channels are that mean, too, where their number differs.
        """
        channels, height, width = shape
        with torch.no_grad():
            made = self.pictures(latents)
            side = max(height, width)
            if side != self.size:
                made = functional.interpolate(
                    made, (side, side), mode="bilinear", antialias=True, align_corners=False
                )
            if channels != self.channels:
                made = made.mean(1, keepdim=True).expand(-1, channels, -1, -1)
        top, left = (side - height) // 2, (side - width) // 2
        return made[:, :, top : top + height, left : left + width].clamp(0, 1).contiguous()
