"""The parts of all networks check what sites and configuration say."""

import pytest
import torch
from torch import nn

from fedstrata.support.errors import UserError
from models.networks import body


def test_a_linear_layer_has_a_largest_size() -> None:
    with torch.device("meta"):
        assert body.linear(body.MOST_WEIGHTS, 1).out_features == 1
    with pytest.raises(UserError, match="make the inputs or the layer smaller"):
        body.linear(body.MOST_WEIGHTS, 2)


@pytest.mark.parametrize(
    ("shape", "said"),
    [((3, 8), "takes images"), ((body.MOST_CHANNELS + 1, 8, 8), "4097 channels; the most is 4096")],
)
def test_images_have_three_axes_and_a_limit_of_channels(shape: tuple[int, ...], said: str) -> None:
    with pytest.raises(UserError, match=said):
        body.image_channels("vgg11", shape)


@pytest.mark.parametrize("value", [0, True, 1.5, "8"])
def test_a_width_is_a_whole_number_from_1(value: object) -> None:
    with pytest.raises(UserError, match="is not a width"):
        body.widths("hidden", [4, value])  # type: ignore[list-item]


def test_a_switch_is_a_bool() -> None:
    assert body.switch("classifier", True)
    with pytest.raises(UserError, match="must be true or false, not 1"):
        body.switch("classifier", 1)


def test_a_convolution_is_new_only_for_other_channels() -> None:
    first = nn.Conv2d(3, 8, 5, stride=2, padding=1, bias=False)
    assert body.for_channels(first, 3) is first
    grey = body.for_channels(first, 1)
    assert grey.weight.shape == (8, 1, 5, 5)
    assert (grey.stride, grey.padding, grey.bias) == ((2, 2), (1, 1), None)
