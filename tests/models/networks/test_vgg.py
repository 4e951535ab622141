"""VGG starts as torchvision's does, with or without its classifier."""

from collections import OrderedDict

import pytest
import torch
from torch import nn
from torchvision import models as torchvision_models


def body_of(model):
    children = [(name, child) for name, child in model.named_children() if name != "head"]
    return nn.Sequential(OrderedDict(children))


@pytest.mark.parametrize(
    ("name", "kept", "width"), [("vgg11", [0, 3], 4096), ("mobilenet_v3_small", [0], 1024)]
)
def test_the_classifier_without_its_last_layer_gives_torchvisions_hidden_features(
    name, kept, width, network
):
    ours = network(name, classifier=True).eval()
    others = torchvision_models.get_model(name, weights=None).eval()
    own = {k for k in ours.state_dict() if k.startswith("classifier.")}
    assert own == {f"classifier.{i}.{what}" for i in kept for what in ("weight", "bias")}
    shared = {k: v for k, v in others.state_dict().items() if k in ours.state_dict()}
    ours.load_state_dict(shared, strict=False)
    assert ours.head.out.in_features == width
    others.classifier[-1] = nn.Identity()
    inputs = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(body_of(ours)(inputs), others(inputs))


def test_vgg_without_classifier_starts_as_torchvisions_does(network):
    # He et al. 2015: std = sqrt(2 / (9 * outputs)) for a 3x3 convolution, over the outputs.
    torch.manual_seed(0)
    features = network("vgg11_bn").features
    assert features[4].weight.std().item() == pytest.approx((2 / (9 * 128)) ** 0.5, rel=0.02)
    assert features[4].bias.abs().max() == 0
    assert torch.equal(features[5].running_var, torch.ones(128))
