"""What the families of networks share: named layers, checks of sizes, the first convolution."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TypeAlias

from torch import nn

from fedstrata.support.errors import UserError

Layers: TypeAlias = "OrderedDict[str, nn.Module]"


MOST_CHANNELS = 4096  # of an image
MOST_WEIGHTS = 2**28  # of one linear layer: 1 GB in float32


def linear(inputs: int, outputs: int) -> nn.Linear:
    """Return a linear layer; raise `UserError` for one that is unreasonably large."""
    # Sites report how large an input is, and the server builds the model: a wrong report must not
    # take all of its memory.
    if inputs * outputs > MOST_WEIGHTS:
        raise UserError(
            f"a linear layer from {inputs} to {outputs} values has more than {MOST_WEIGHTS} weights: "
            "make the inputs or the layer smaller"
        )
    return nn.Linear(inputs, outputs)


def image_channels(name: str, input_shape: tuple[int, ...]) -> int:
    """Return the channels of ``(channels, height, width)``; raise `UserError` if it is not that."""
    if len(input_shape) != 3:
        raise UserError(
            f"{name} takes images (channels, height, width), but one input is {input_shape}; "
            "for anything but images choose model=mlp"
        )
    if input_shape[0] > MOST_CHANNELS:
        raise UserError(f"{name}: images of {input_shape[0]} channels; the most is {MOST_CHANNELS}")
    return input_shape[0]


def widths(option: str, values: Sequence[int]) -> list[int]:
    """Return ``values`` as a list of ints; raise `UserError` unless all are at least 1."""
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise UserError(f"{option} must be a list of widths such as [128, 64], not {values!r}")
    for value in values:
        # bool is a subclass of int: True would be a width of 1.
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UserError(f"{option}: {value!r} is not a width; write whole numbers from 1 on")
    return list(values)


def switch(option: str, value: object) -> bool:
    """Return ``value`` if it is true or false; raise `UserError` if it is anything else."""
    if not isinstance(value, bool):
        raise UserError(f"{option} must be true or false, not {value!r}")
    return value


def for_channels(convolution: nn.Conv2d, channels: int) -> nn.Conv2d:
    """Return ``convolution``, or a new one like it if it has not ``channels`` input channels."""
    if convolution.in_channels == channels:
        return convolution
    fresh = nn.Conv2d(
        channels,
        convolution.out_channels,
        kernel_size=convolution.kernel_size,  # type: ignore[arg-type]
        stride=convolution.stride,  # type: ignore[arg-type]
        padding=convolution.padding,  # type: ignore[arg-type]
        bias=convolution.bias is not None,
    )
    draw(fresh)
    return fresh


def draw(layer: nn.Module) -> None:
    """Draw the starting values of a layer as torchvision does for ResNet, VGG and MobileNet.

    Convolutions: normal by He's rule over the outputs (He et al., arXiv 1502.01852), bias 0.
    """
    if isinstance(layer, nn.Conv2d):
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    elif isinstance(layer, nn.BatchNorm2d):
        layer.reset_parameters()
