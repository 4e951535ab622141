"""The small CNN gives 256 features of an image of any size and any channels."""

import pytest
import torch


@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 40, 56)])
def test_an_image_becomes_its_features(network, shape):
    model = network("small_cnn", shape=shape).eval()
    assert model.head[-1].in_features == 256
    assert model(torch.zeros(2, *shape)).shape == (2, 5)
    first = next(iter(model.parameters()))
    assert first.shape[1] == shape[0]


@pytest.mark.parametrize(("channels", "count"), [(1, 23_520), (3, 23_808)])
def test_its_body_has_as_many_parameters_as_documented(network, channels, count):
    model = network("small_cnn", shape=(channels, 28, 28))
    assert sum(p.numel() for n, p in model.named_parameters() if "head" not in n) == count
