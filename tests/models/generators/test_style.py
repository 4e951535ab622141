"""A style network: the formulas of StyleGAN2, and a network that its tensors' shapes describe."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from models.generators.style import LatentMapping, Styled, StyleNetwork, _doubled

SMALL = {"latent": 4, "noise": 3, "layers": 2}


def made(classes: int = 0) -> StyleNetwork:
    torch.manual_seed(1)
    return StyleNetwork((6, 5, 4), **SMALL, classes=classes)


def shapes_of(network: StyleNetwork) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def test_pictures_are_four_times_as_large_in_three_blocks() -> None:
    network = made(classes=2)
    latents = network.mapping(torch.randn(5, 3), torch.eye(2)[[0, 1, 0, 1, 1]])
    assert latents.shape == (5, 4)
    assert network(latents).shape == (5, 3, 16, 16)


@pytest.mark.parametrize("up", [False, True])
def test_a_style_scales_the_weights_and_their_norm_is_taken_out(up: bool) -> None:
    """The formula of the paper, for each example: w' = s * w, over its norm for each output channel."""
    torch.manual_seed(2)
    layer = Styled(3, 2, 4, 8 if up else 4, up=up)
    layer.noise_strength.data.fill_(0.3)
    x, latents = torch.randn(2, 3, 4, 4), torch.randn(2, 4)
    found = layer(x, latents)
    style = layer.affine(latents)
    for row in range(2):
        weight = layer.weight * style[row][None, :, None, None]
        weight = weight / (weight.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        if up:
            wide = functional.conv_transpose2d(x[row : row + 1], weight.transpose(0, 1), stride=2)
            line = torch.tensor([1.0, 3.0, 3.0, 1.0])
            kernel = (4 * torch.outer(line, line) / 64).expand(2, 1, 4, 4)
            expected = functional.conv2d(wide, kernel, padding=1, groups=2)
        else:
            expected = functional.conv2d(x[row : row + 1], weight, padding=1)
        expected = expected + 0.3 * layer.get_buffer("noise_const")
        expected = functional.leaky_relu(expected, 0.2) * 2**0.5
        assert torch.allclose(found[row], expected[0], atol=1e-5)


def test_noise_has_no_length_before_it_is_mapped() -> None:
    torch.manual_seed(3)
    mapping = LatentMapping(3, 4, 2, 0)
    noise = torch.randn(2, 3)
    assert torch.allclose(mapping(noise), mapping(7 * noise), atol=1e-5)


def test_a_doubled_picture_keeps_its_level() -> None:
    doubled = _doubled(torch.full((1, 3, 4, 4), 0.7))
    assert doubled.shape == (1, 3, 8, 8)
    assert torch.allclose(doubled[:, :, 2:-2, 2:-2], torch.tensor(0.7))


@pytest.mark.parametrize("classes", [0, 2])
def test_shapes_describe_the_network(classes: int) -> None:
    network = made(classes)
    other = StyleNetwork.of_shapes(shapes_of(network))
    assert shapes_of(other) == shapes_of(network)
    assert (other.sizes, other.mapping.noise, other.mapping.classes) == ((4, 8, 16), 3, classes)


def test_other_shapes_are_refused_by_name() -> None:
    shapes = shapes_of(made())
    with pytest.raises(ValueError, match="no layers as of StyleGAN2"):
        StyleNetwork.of_shapes({"fc.weight": (2, 2)})
    wrong = {**shapes, "synthesis.b8.conv0.bias": (9,)}
    with pytest.raises(
        ValueError, match=r"synthesis\.b8\.conv0\.bias is \(9,\), and \(5,\) is needed"
    ):
        StyleNetwork.of_shapes(wrong)
    del shapes["synthesis.b16.torgb.affine.weight"]
    with pytest.raises(ValueError, match=r"b16\.torgb\.affine\.weight is None"):
        StyleNetwork.of_shapes(shapes)
    huge = {**shapes_of(made()), "synthesis.b4.conv1.weight": (10**9, 6, 3, 3)}
    with pytest.raises(ValueError, match="is needed"):
        StyleNetwork.of_shapes(huge)
