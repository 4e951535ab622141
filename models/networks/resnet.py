"""ResNet (He et al., arXiv 1512.03385) as torchvision builds it."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from models.networks.body import Layers, for_channels, image_channels

STAGES = {"resnet4": 1, "resnet6": 2, "resnet8": 3, "resnet10": 4}


def resnet(name: str, input_shape: tuple[int, ...]) -> Layers:
    """Return conv1, bn1, relu, maxpool, layer1 to layer4, avgpool, flatten.

    512 features, or 2048 from ``resnet50`` on. Every image size runs; below 32x32 the last stage
    sees a single pixel. Those of `STAGES` have one block in each stage, and not all stages: 64, 128,
    256 and 512 features.
    """
    from torchvision import models
    from torchvision.models.resnet import BasicBlock, ResNet

    channels = image_channels(name, input_shape)
    stages = STAGES.get(name)
    if stages is None:
        whole = models.get_model(name, weights=None, num_classes=1)
    else:
        whole = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=1)
    layers: Layers = OrderedDict(whole.named_children())
    del layers["fc"]
    for stage in range((stages or 4) + 1, 5):
        del layers[f"layer{stage}"]
    # A child under an old name keeps its place in the order, which is the order of the layers.
    layers["conv1"] = for_channels(whole.conv1, channels)
    layers["flatten"] = nn.Flatten()
    return layers
