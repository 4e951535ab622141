"""The network of the tables of personalised methods has the parameters that they count."""

import pytest
import torch

from fedstrata.support.errors import UserError
from models.networks import build
from models.networks.fedavg_cnn import pooled_side, side_of


def made(shape: tuple[int, ...], classes: int) -> torch.nn.Sequential:
    return build("fedavg_cnn", input_shape=shape, classes=classes, head=[])


@pytest.mark.parametrize(
    ("shape", "classes", "inputs", "parameters"),
    [
        ((1, 28, 28), 10, 1024, 582_026),  # MNIST, as PFLlib's tables count them
        ((3, 32, 32), 100, 1600, 924_708),
        ((3, 64, 64), 200, 10_816, 5_694_600),
    ],
)
def test_it_has_the_parameters_of_the_tables(shape, classes, inputs, parameters) -> None:
    model = made(shape, classes)
    assert model.fc1.in_features == inputs
    assert model.head.out.in_features == 512
    assert sum(each.numel() for each in model.parameters()) == parameters
    assert model(torch.randn(2, *shape)).shape == (2, classes)


def test_its_layers_are_named_and_in_order() -> None:
    names = [name for name, _ in made((1, 28, 28), 10).named_children()]
    convolutions = ["conv1", "relu1", "pool1", "conv2", "relu2", "pool2"]
    assert names == [*convolutions, "flatten", "fc1", "relu3", "head"]


def test_it_computes_what_its_layers_say() -> None:
    model = made((1, 28, 28), 10)
    given = inputs = torch.randn(2, 1, 28, 28)
    functions = torch.nn.functional
    for layer in (model.conv1, model.conv2):
        inputs = functions.max_pool2d(functions.conv2d(inputs, layer.weight, layer.bias).relu(), 2)
    features = functions.linear(inputs.flatten(1), model.fc1.weight, model.fc1.bias).relu()
    expected = functions.linear(features, model.head.out.weight, model.head.out.bias)
    torch.testing.assert_close(model(given), expected)


@pytest.mark.parametrize("side", [16, 28, 32, 64, 227])
def test_the_side_of_an_image_follows_from_the_inputs_of_fc1(side) -> None:
    features = 64 * pooled_side(side) ** 2
    least = side_of(features)
    assert pooled_side(least) == pooled_side(side) == pooled_side(least - 1) + 1


def test_images_too_small_or_too_large_are_refused() -> None:
    with pytest.raises(UserError, match="too small for fedavg_cnn: at least 16x16"):
        made((1, 15, 28), 10)
    with pytest.raises(UserError, match="make the inputs or the layer smaller"):
        made((1, 10**5, 10**5), 10)
