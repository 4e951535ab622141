"""ResNet gives 512 features of an image of any size and any channels."""

import pytest
import torch

from models.networks.resnet import STAGES


@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 40, 56)])
def test_an_image_becomes_its_features(network, shape):
    model = network("resnet18", shape=shape).eval()
    assert model.head[-1].in_features == 512
    assert model(torch.zeros(2, *shape)).shape == (2, 5)
    first = next(iter(model.parameters()))
    assert first.shape[1] == shape[0]


def test_layers_run_in_the_order_of_torchvision(network):
    names = [name for name, _ in network("resnet18", shape=(1, 32, 32)).named_children()]
    layers = ["layer1", "layer2", "layer3", "layer4"]
    assert names == ["conv1", "bn1", "relu", "maxpool", *layers, "avgpool", "flatten", "head"]


def test_shallow_ones_have_one_block_in_each_of_their_stages(network):
    found = {}
    for name in STAGES:
        model = network(name, shape=(1, 32, 32))
        layers = [each for each, _ in model.named_children() if each.startswith("layer")]
        found[name] = len(layers), model.head.out.in_features
        assert all(len(getattr(model, layer)) == 1 for layer in layers)
    assert found == {
        "resnet4": (1, 64),
        "resnet6": (2, 128),
        "resnet8": (3, 256),
        "resnet10": (4, 512),
    }
