"""MOON: the contrastive term is what numpy says, from the second training of a site on."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedstrata.support.errors import UserError
from strategies.methods import make_method
from tests.helpers.method_rounds import (
    Numbers,
    Parameters,
    assert_close,
    cross_entropy,
    data_of,
    descended,
    features,
    linear,
    mean_of,
    parameters,
    site_of,
    tensors_of,
    weighted,
)
from tests.helpers.methods import groups_of
from tests.helpers.runs import same

MOON = make_method({"name": "moon", "mu": 2.0, "temperature": 0.5})
OFF = make_method({"name": "moon", "mu": 0.0, "temperature": 0.5})
LAYERS = make_method({"name": "layers"})
EXAMPLES = [6, 9]


def cosines(a: Numbers, b: Numbers) -> Numbers:
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.asarray((a * b).sum(1) / np.maximum(lengths, 1e-8))


def test_two_rounds_of_two_sites_are_those_of_numpy() -> None:
    received = parameters(tensors_of(site_of(MOON)))
    last: list[Parameters | None] = [None, None]
    memory: list[dict[str, torch.Tensor]] = [{}, {}]
    start: dict[str, torch.Tensor] = {}
    for _ in range(2):
        sites = [site_of(MOON, i, examples=n, start=start) for i, n in enumerate(EXAMPLES)]
        expected = []
        for i, site in enumerate(sites):
            site.memory = memory[i]
            MOON.train(site)
            (x, y), before, global_ = data_of(site), last[i], received

            def loss(
                p: Parameters, x: Numbers = x, y=y, before=before, global_: Parameters = global_
            ) -> float:
                z = features(x, p)
                value = cross_entropy(linear(z, p, "head.out"), y)
                if before is not None:
                    near = np.exp(cosines(z, features(x, global_)) / 0.5)
                    far = np.exp(cosines(z, features(x, before)) / 0.5)
                    value += 2.0 * float(-np.log(near / (near + far)).mean())
                return value

            expected.append(descended(loss, received))
            assert_close(tensors_of(site), expected[i])
            last[i] = expected[i]
        received = weighted(expected, EXAMPLES)
        start = mean_of(MOON, sites, "common")
        assert_close(start, received)


def test_without_the_term_it_trains_as_the_layers_do() -> None:
    one, other = site_of(OFF, momentum=0.9), site_of(LAYERS, momentum=0.9)
    OFF.train(one)
    LAYERS.train(other)
    assert same(tensors_of(one), tensors_of(other))
    assert not one.memory


def test_the_last_body_is_kept_and_changes_the_next_training() -> None:
    first = site_of(MOON)
    MOON.train(first)
    assert set(first.memory) == {"last.fc1.weight", "last.fc1.bias"}
    assert torch.equal(first.memory["last.fc1.weight"], tensors_of(first)["fc1.weight"])
    second, fresh = site_of(MOON, memory=first.memory), site_of(MOON)
    for site in (second, fresh):
        MOON.train(site)
    assert not same(tensors_of(second), tensors_of(fresh))


def test_running_statistics_are_those_of_the_trained_body_alone() -> None:
    counts = []
    for memory in ({}, None):
        site = site_of(MOON, model="mlp_bn")
        if memory is None:
            MOON.train(site)
            site = site_of(MOON, model="mlp_bn", memory=site.memory)
        MOON.train(site)
        counts.append(int(site.model.get_buffer("bn1.num_batches_tracked")))
    assert counts == [2, 2]


def test_the_network_alone_predicts() -> None:
    site = site_of(MOON)
    assert MOON.predictor(site) is site.tail
    assert MOON.deployed(site) == {}


def test_its_groups_are_the_configured_ones() -> None:
    assert groups_of(MOON) == groups_of(LAYERS)


def test_its_options_are_checked() -> None:
    with pytest.raises(UserError, match=r"method\.mu must be 0 or greater, got -1"):
        make_method({"name": "moon", "mu": -1.0, "temperature": 0.5})
    with pytest.raises(UserError, match=r"method\.temperature must be above 0, got 0"):
        make_method({"name": "moon", "mu": 1.0, "temperature": 0.0})
