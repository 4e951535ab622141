"""A generator of features: what it is given, how classes are drawn, and the diversity loss."""

from __future__ import annotations

import numpy as np
import torch

from strategies.feature_generator import FeatureGenerator, alike
from tests.helpers.method_rounds import assert_close, linear, parameters


def test_it_is_two_layers_over_noise_and_class() -> None:
    torch.manual_seed(1)
    generator = FeatureGenerator(3, 2, 5, 4)
    labels, noise = torch.tensor([2, 0]), torch.randn(2, 2)
    p = parameters(generator.state_dict())
    inputs = np.concatenate([noise.double().numpy(), np.eye(3)[[2, 0]]], axis=1)
    expected = linear(np.maximum(linear(inputs, p, "hidden"), 0), p, "out")
    assert_close({"features": generator(labels, noise)}, {"features": expected})


def test_classes_are_drawn_as_often_as_they_are_there() -> None:
    generator = FeatureGenerator(3, 2, 5, 4)
    torch.manual_seed(1)
    labels, noise = generator.drawn(torch.tensor([0.75, 0.0, 0.25]), 4000)
    assert noise.shape == (4000, 2)
    shares = torch.bincount(labels, minlength=3) / 4000
    assert torch.allclose(shares, torch.tensor([0.75, 0.0, 0.25]), atol=0.03)
    labels, _ = generator.drawn(torch.zeros(3), 3000)  # nobody says
    assert int(torch.bincount(labels, minlength=3).min()) > 900


def test_the_diversity_loss_is_that_of_numpy_and_1_where_all_are_alike() -> None:
    torch.manual_seed(1)
    features, noise = torch.rand(5, 3), torch.rand(5, 2)
    f, e = features.double().numpy(), noise.double().numpy()
    pairs = [
        np.abs(f[i] - f[j]).mean() * ((e[i] - e[j]) ** 2).mean() for i in range(5) for j in range(5)
    ]
    expected = {"loss": np.array(np.exp(-np.mean(pairs)))}
    assert_close({"loss": alike(features, noise)}, expected)
    assert float(alike(torch.ones(5, 3), noise)) == 1
