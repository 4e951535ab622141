"""Networks for measurements, such as the 561 features of UCI HAR: a perceptron, a linear model."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from models.networks.body import Layers, linear, widths


def mlp(name: str, input_shape: tuple[int, ...], *, hidden: Sequence[int]) -> Layers:
    """Return flatten, then fc{i} and relu{i} for each width in ``hidden``, from i = 1.

    Inputs may have any shape; the features are the last width, or the inputs where there is none.
    ``mlp_bn`` has a BatchNorm, bn{i}, between the two.
    """
    features = math.prod(input_shape)
    layers: Layers = OrderedDict(flatten=nn.Flatten())
    for index, width in enumerate(widths("hidden", hidden), start=1):
        layers[f"fc{index}"] = linear(features, width)
        if name == "mlp_bn":
            layers[f"bn{index}"] = nn.BatchNorm1d(width)
        layers[f"relu{index}"] = nn.ReLU(inplace=True)
        features = width
    return layers


def linear_model(name: str, input_shape: tuple[int, ...]) -> Layers:
    """Return flatten alone: with a head without hidden layers, a linear model of the inputs."""
    del name
    linear(math.prod(input_shape), 1)  # raises for inputs that no layer takes
    return OrderedDict(flatten=nn.Flatten())
