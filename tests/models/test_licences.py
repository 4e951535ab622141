"""The licence of start weights is said as far as their source tells it."""

from __future__ import annotations

import pytest

from models.licences import NOT_KNOWN, licence_of


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("central pre-training", "Apache-2.0"),
        ("ResNet18_Weights.IMAGENET1K_V1", "ImageNet"),
        ("IMAGENET1K_V1", "ImageNet"),
        ("/models/resnet18.pth", NOT_KNOWN),
        ("/models/Our_Weights.pth", NOT_KNOWN),
        ("folder tiny-bert", NOT_KNOWN),
    ],
)
def test_the_licence_of_the_start_is_said_as_far_as_it_is_known(source: str, said: str) -> None:
    assert said in licence_of(source)
