"""SqueezeNet gives torchvision's features for torchvision's weights."""

from collections import OrderedDict

import torch
from torch import nn
from torchvision import models as torchvision_models

from models.weights import load_into, read_file
from tests.helpers.real_data import shared_file


def body_of(model):
    children = [(name, child) for name, child in model.named_children() if name != "head"]
    return nn.Sequential(OrderedDict(children))


def test_real_squeezenet_weights_give_torchvisions_features(network):
    weights = read_file(shared_file("squeezenet1_1_torchvision.npz"))
    ours = network("squeezenet1_1").eval()
    report = load_into(ours, weights)
    assert (len(report.loaded), report.missing) == (50, ("head.out.weight", "head.out.bias"))
    assert report.unexpected == ("classifier.1.weight", "classifier.1.bias")
    other = torchvision_models.squeezenet1_1(weights=None).eval()
    other.load_state_dict(weights)
    inputs = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = other.features(inputs).mean((2, 3))
        torch.testing.assert_close(body_of(ours)(inputs), expected, rtol=1e-5, atol=1e-6)
