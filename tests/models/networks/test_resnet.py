"""ResNet gives 512 features of an image of any size and any channels."""

import pytest
import torch


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
