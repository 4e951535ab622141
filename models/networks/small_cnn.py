"""A light CNN for edge devices: three convolutions, 23,808 parameters on RGB."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from models.networks.body import Layers, image_channels


def small_cnn(name: str, input_shape: tuple[int, ...]) -> Layers:
    """Return conv{i}, bn{i}, relu{i}, pool{i} for i in 1 to 3, then flatten: 256 features.

    3x3 convolutions of 16, 32 and 64 channels with BatchNorm; the first two halve the image, the
    last pooling leaves 2x2. 23,376 parameters and 144 for each input channel: 23,808 for RGB,
    23,520 for grey. Made for images of 28x28 and larger.
    """
    channels = image_channels(name, input_shape)
    layers: Layers = OrderedDict()
    for index, width in enumerate([16, 32, 64], start=1):
        layers[f"conv{index}"] = nn.Conv2d(channels, width, kernel_size=3, padding=1)
        layers[f"bn{index}"] = nn.BatchNorm2d(width)
        layers[f"relu{index}"] = nn.ReLU(inplace=True)
        layers[f"pool{index}"] = nn.MaxPool2d(2)
        channels = width
    layers["pool3"] = nn.AdaptiveAvgPool2d(2)
    layers["flatten"] = nn.Flatten()
    return layers
