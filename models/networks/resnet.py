"""ResNet (He et al., arXiv 1512.03385) as torchvision builds it."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from models.networks.body import Layers, for_channels, image_channels


def resnet(name: str, input_shape: tuple[int, ...]) -> Layers:
    """Return conv1, bn1, relu, maxpool, layer1 to layer4, avgpool, flatten.

    512 features, or 2048 for ``resnet50``. Every image size runs; below 32x32 the last stage sees
    a single pixel.
    """
    from torchvision import models

    channels = image_channels(name, input_shape)
    whole = models.get_model(name, weights=None, num_classes=1)
    layers: Layers = OrderedDict(whole.named_children())
    del layers["fc"]
    # A child under an old name keeps its place in the order, which is the order of the layers.
    layers["conv1"] = for_channels(whole.conv1, channels)
    layers["flatten"] = nn.Flatten()
    return layers
