"""The multi-layer perceptron has one layer per width, with or without BatchNorm."""

import torch


def test_mlp_bn_has_a_batchnorm_before_each_relu(network):
    model = network("mlp_bn", shape=(561,), classes=6)
    layers = [f"{kind}{number}" for number in (1, 2, 3) for kind in ("fc", "bn", "relu")]
    assert [name for name, _ in model.named_children()] == ["flatten", *layers, "head"]
    assert model.bn2.num_features == 64


def test_mlp_flattens_images(network):
    assert network("mlp", shape=(1, 28, 28))(torch.randn(2, 1, 28, 28)).shape == (2, 5)
