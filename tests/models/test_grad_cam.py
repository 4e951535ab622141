"""Heat maps show where a network saw what it says."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fedstrata.support.errors import UserError
from models.grad_cam import heat_maps, last_maps
from models.networks import build


def looking_left() -> nn.Sequential:
    """Return a network whose output 0 speaks for a bright left half, and 1 for the right."""

    class Halves(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.stack([x[..., :4].mean((1, 2, 3)), x[..., 4:].mean((1, 2, 3))], dim=1)

    return nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.ReLU(), Halves()).eval()


def test_the_heat_is_where_the_bright_half_is() -> None:
    network = looking_left()
    with torch.no_grad():
        network[0].weight.fill_(1.0)
    picture = torch.zeros(2, 1, 8, 8)
    picture[0, :, :, :4] = 1
    picture[1, :, :, 4:] = 1
    heat = heat_maps(network, picture, [0, 1])
    assert heat.shape == (2, 8, 8)
    assert heat[0, :, :4].min() == 1
    assert heat[0, :, 4:].max() == 0
    assert heat[1, :, 4:].min() == 1
    assert not heat.requires_grad


@pytest.mark.parametrize(
    ("name", "size", "step"),
    [("resnet18", 128, 8), ("resnet18", 32, 6), ("small_cnn", 32, 11), ("resnet18", 8, 3)],
)
def test_the_maps_are_the_last_that_are_large_enough(name: str, size: int, step: int) -> None:
    network = build(name, input_shape=(3, size, size), classes=2, head=[4]).eval()
    assert last_maps(network, torch.rand(1, 3, size, size)) == step
    heat = heat_maps(network, torch.rand(2, 3, size, size), [0, 1])
    assert heat.shape == (2, size, size)
    assert 0 <= float(heat.min()) <= float(heat.max()) <= 1


def test_a_network_without_maps_is_rejected() -> None:
    with pytest.raises(UserError, match="no feature maps"):
        last_maps(nn.Sequential(nn.Linear(3, 2)), torch.rand(1, 3))
    with pytest.raises(UserError, match="no feature maps"):
        last_maps(nn.Sequential(nn.Conv2d(1, 2, 1)), torch.rand(1, 1, 1, 1))
