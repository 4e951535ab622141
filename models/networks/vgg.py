"""VGG (Simonyan and Zisserman, arXiv 1409.1556) as torchvision builds it."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

from models.networks.body import Layers, draw, for_channels, image_channels, switch


def vgg(name: str, input_shape: tuple[int, ...], *, classifier: bool) -> Layers:
    """Return features, avgpool, flatten and, if wanted, classifier; images of 32x32 and larger.

    ``classifier`` is torchvision's without its last layer: classifier.0 and classifier.3, 120 M
    parameters, 4096 features (fc7 of VGG-Face). Without it the mean over the image: 512 features.
    """
    from torchvision import models

    channels = image_channels(name, input_shape)
    classifier = switch("classifier", classifier)
    # On the meta device a classifier that is dropped is never drawn: that takes 2 s and 480 MB.
    with torch.device("cpu" if classifier else "meta"):
        whole = models.get_model(name, weights=None, num_classes=1)
    layers: Layers = OrderedDict(features=whole.features, avgpool=whole.avgpool)
    layers["flatten"] = nn.Flatten()
    if classifier:
        layers["classifier"] = whole.classifier[:-1]
    else:
        layers["avgpool"] = nn.AdaptiveAvgPool2d(1)
        whole.features.to_empty(device="cpu").apply(draw)
    whole.features[0] = for_channels(whole.features[0], channels)
    return layers
