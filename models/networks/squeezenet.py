"""SqueezeNet (Iandola et al., arXiv 1602.07360) as torchvision builds it."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from models.networks.body import Layers, for_channels, image_channels


def squeezenet(name: str, input_shape: tuple[int, ...]) -> Layers:
    """Return features, avgpool, flatten: 512 features; images of 17x17 and larger."""
    from torchvision import models

    channels = image_channels(name, input_shape)
    features = models.get_model(name, weights=None, num_classes=1).features
    # torchvision's own head is a convolution to the classes, so it is left out as a whole.
    features[0] = for_channels(features[0], channels)
    return OrderedDict(features=features, avgpool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten())
