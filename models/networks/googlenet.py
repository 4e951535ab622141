"""GoogLeNet (Szegedy et al., arXiv 1409.4842) as torchvision builds it, with BatchNorm."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from models.networks.body import Layers, for_channels, image_channels


def googlenet(name: str, input_shape: tuple[int, ...]) -> Layers:
    """Return conv1 to inception5b, avgpool, flatten: 1024 features; images of 15x15 and larger.

    The auxiliary classifiers and torchvision's Dropout before the last layer are left out.
    """
    from torchvision import models

    channels = image_channels(name, input_shape)
    whole = models.get_model(
        name, weights=None, num_classes=1, aux_logits=False, init_weights=False
    )
    layers: Layers = OrderedDict(whole.named_children())
    for left_out in ("dropout", "fc"):
        del layers[left_out]
    first = whole.conv1
    first.conv = for_channels(first.conv, channels)
    layers["flatten"] = nn.Flatten()
    return layers
