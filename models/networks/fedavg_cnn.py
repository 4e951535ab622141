"""The network with two convolutions of the tables of personalised methods ("4-layer CNN")."""

from __future__ import annotations

import math
from collections import OrderedDict

from torch import nn

from fedstrata.support.errors import UserError
from models.networks.body import Layers, image_channels, linear

_KERNEL, _WIDTHS, _FEATURES = 5, (32, 64), 512
_LEAST = 16  # pixels on a side of which the second pooling leaves one


def fedavg_cnn(name: str, input_shape: tuple[int, ...]) -> Layers:
    """Return conv{i}, relu{i}, pool{i} for i in 1 and 2, flatten, fc1, relu3: 512 features.

    5x5 convolutions of 32 and 64 channels without padding, each with ReLU and 2x2 max-pooling
    (McMahan et al. 2017, in the form of PFLlib). With ``model.head=[]`` and 10 classes it has
    582,026 parameters for 1x28x28. ``fc1`` has 1,024 inputs there, 1,600 for 32x32 and 10,816 for
    64x64.

    Raises
    ------
    UserError
        Images too small, or so large that ``fc1`` would be.
    """
    channels = image_channels(name, input_shape)
    sides = [pooled_side(side) for side in input_shape[1:]]
    if min(sides) < 1:
        raise UserError(
            f"images of {input_shape[1]}x{input_shape[2]} are too small for {name}: at least "
            f"{_LEAST}x{_LEAST}"
        )
    layers: Layers = OrderedDict()
    for index, width in enumerate(_WIDTHS, start=1):
        layers[f"conv{index}"] = nn.Conv2d(channels, width, kernel_size=_KERNEL)
        layers[f"relu{index}"] = nn.ReLU(inplace=True)
        layers[f"pool{index}"] = nn.MaxPool2d(2)
        channels = width
    layers["flatten"] = nn.Flatten()
    layers["fc1"] = linear(channels * sides[0] * sides[1], _FEATURES)
    layers["relu3"] = nn.ReLU(inplace=True)
    return layers


def pooled_side(side: int) -> int:
    """Return how many values a side of ``side`` pixels becomes before ``fc1``."""
    for _ in _WIDTHS:
        side = (side - _KERNEL + 1) // 2
    return side


def side_of(features: int) -> int:
    """Return the least side of square images that become about ``features`` inputs of ``fc1``."""
    pooled = max(1, round(math.sqrt(features / _WIDTHS[-1])))
    return 4 * pooled + _LEAST - 4
