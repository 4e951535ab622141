"""MobileNetV3 (Howard et al., arXiv 1905.02244) and MobileNetV2 (1801.04381), as torchvision has them."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from models.networks.body import Layers, for_channels, image_channels, switch


def mobilenet_v2(name: str, input_shape: tuple[int, ...]) -> Layers:
    """Return features, avgpool, flatten: 1280 features; every image size runs."""
    from torchvision import models

    channels = image_channels(name, input_shape)
    features = models.get_model(name, weights=None, num_classes=1).features
    features[0][0] = for_channels(features[0][0], channels)
    return OrderedDict(features=features, avgpool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten())


def mobilenet(name: str, input_shape: tuple[int, ...], *, classifier: bool) -> Layers:
    """Return features, avgpool, flatten and, if wanted, classifier; every image size runs.

    ``classifier`` is torchvision's without its last layer: classifier.0, and 1024 features for
    ``mobilenet_v3_small``. Without it the mean over the image: 576 features.
    """
    from torchvision import models

    channels = image_channels(name, input_shape)
    whole = models.get_model(name, weights=None, num_classes=1)
    first = whole.features[0]
    first[0] = for_channels(first[0], channels)
    layers: Layers = OrderedDict(features=whole.features, avgpool=whole.avgpool)
    layers["flatten"] = nn.Flatten()
    if switch("classifier", classifier):
        layers["classifier"] = whole.classifier[:-1]
    return layers
