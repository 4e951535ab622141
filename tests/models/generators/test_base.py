"""Pictures in the shape of a site's own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.generators.base import PictureGenerator


class Gradient(PictureGenerator):
    """Red grows from left to right, green downwards; blue is 1."""

    latent, channels, size = 1, 3, 8

    def latents(self, count: int) -> Tensor:
        return torch.zeros(count, 1)

    def pictures(self, latents: Tensor) -> Tensor:
        line = torch.linspace(0, 1, self.size)
        planes = [line.expand(8, 8), line[:, None].expand(8, 8), torch.ones(8, 8)]
        return torch.stack(planes).expand(len(latents), -1, -1, -1)


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 8, 8), (3, 4, 4), (3, 12, 6), (1, 5, 9)])
def test_pictures_have_the_wanted_shape_and_values(shape: tuple[int, int, int]) -> None:
    made = Gradient().shaped(torch.zeros(2, 1), shape)
    assert made.shape == (2, *shape)
    assert float(made.min()) >= 0
    assert float(made.max()) <= 1


def test_a_long_picture_is_the_middle_of_a_square_one() -> None:
    made = Gradient().shaped(torch.zeros(1, 1), (3, 8, 4))
    line = torch.linspace(0, 1, 8)
    assert torch.equal(made[0, 0, 0], line[2:6])
    assert torch.equal(made[0, 1, :, 0], line)


def test_a_gray_picture_is_the_mean_of_the_channels() -> None:
    made = Gradient().shaped(torch.zeros(1, 1), (1, 8, 8))
    assert float(made[0, 0, 0, 0]) == pytest.approx(1 / 3)
    assert float(made[0, 0, -1, -1]) == 1
