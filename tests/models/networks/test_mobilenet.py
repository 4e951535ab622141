"""MobileNetV3 gives 576 features of an image of any size and any channels."""

import pytest
import torch


@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 40, 56)])
def test_an_image_becomes_its_features(network, shape):
    model = network("mobilenet_v3_small", shape=shape).eval()
    assert model.head[-1].in_features == 576
    assert model(torch.zeros(2, *shape)).shape == (2, 5)
    first = next(iter(model.parameters()))
    assert first.shape[1] == shape[0]


def test_the_classifier_keeps_its_first_layer_alone(network):
    model = network("mobilenet_v3_small", classifier=True)
    assert model.head[-1].in_features == 1024
    assert {name for name in model.state_dict() if name.startswith("classifier")} == {
        "classifier.0.weight",
        "classifier.0.bias",
    }


def test_version_2_has_its_features_alone(network):
    model = network("mobilenet_v2", shape=(1, 32, 32))
    assert [name for name, _ in model.named_children()] == [
        "features",
        "avgpool",
        "flatten",
        "head",
    ]
    assert model.head.out.in_features == 1280
