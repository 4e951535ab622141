"""The multi-layer perceptron has one layer per width; the linear model is one layer."""

import pytest
import torch

from fedstrata.support.errors import UserError


def test_mlp_bn_has_a_batchnorm_before_each_relu(network):
    model = network("mlp_bn", shape=(561,), classes=6)
    layers = [f"{kind}{number}" for number in (1, 2, 3) for kind in ("fc", "bn", "relu")]
    assert [name for name, _ in model.named_children()] == ["flatten", *layers, "head"]
    assert model.bn2.num_features == 64


def test_mlp_flattens_images(network):
    assert network("mlp", shape=(1, 28, 28))(torch.randn(2, 1, 28, 28)).shape == (2, 5)


def test_the_linear_model_is_one_layer(network):
    model = network("linear", shape=(10,), classes=3)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert shapes == {"head.out.weight": (3, 10), "head.out.bias": (3,)}
    one, other = torch.randn(2, 10), torch.randn(2, 10)
    with torch.no_grad():
        assert torch.allclose((model(one) + model(other)) / 2, model((one + other) / 2), atol=1e-5)


def test_a_linear_model_of_too_many_inputs_is_refused(network):
    with pytest.raises(UserError, match="a linear layer from 1073741824 to 1 values"):
        network("linear", shape=(2**30,))
