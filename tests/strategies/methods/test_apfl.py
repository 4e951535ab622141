"""APFL: w as in FedAvg, a personal v and their share, in steps that numpy makes too."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fedstrata.support.errors import UserError
from models.training.losses import CrossEntropy
from server_app.compose import compose
from strategies.method import Method
from strategies.methods import make_method
from strategies.methods.apfl import APFL
from tests.helpers.method_rounds import (
    LR,
    Numbers,
    Parameters,
    assert_close,
    cross_entropy,
    data_of,
    features,
    gradient,
    linear,
    mean_of,
    parameters,
    site_of,
    tensors_of,
    weighted,
)
from tests.helpers.methods import groups_of
from tests.helpers.runs import same

LEARNED, FIXED_AT_0, FIXED_AT_1 = APFL(0.5, True), APFL(0.0, False), APFL(1.0, False)
FEDAVG, LOCAL = make_method({"name": "fedavg"}), make_method({"name": "local"})
EXAMPLES = [6, 9]


def mixed(v: Parameters, w: Parameters, alpha: float) -> Parameters:
    return {name: alpha * v[name] + (1 - alpha) * w[name] for name in w}


def stepped(
    w: Parameters, v: Parameters, alpha: float, x: Numbers, y: NDArray[np.int64]
) -> tuple[Parameters, Parameters, float]:
    def loss(p: Parameters) -> float:
        return cross_entropy(linear(features(x, p), p, "head.out"), y)

    at_w, at_m = gradient(loss, w), gradient(loss, mixed(v, w, alpha))
    slope = sum(float(((v[n] - w[n]) * at_m[n]).sum()) for n in w)
    return (
        {n: w[n] - LR * at_w[n] for n in w},
        {n: v[n] - LR * alpha * at_m[n] for n in w},
        float(np.clip(alpha - LR * slope, 0, 1)),
    )


def test_two_rounds_of_two_sites_are_those_of_numpy() -> None:
    received = parameters(tensors_of(site_of(LEARNED)))
    own = [(received, 0.5), (received, 0.5)]
    start: dict[str, torch.Tensor] = {}
    memory: list[dict[str, torch.Tensor]] = [{}, {}]
    for _ in range(2):
        sites = [site_of(LEARNED, i, examples=n, start=start) for i, n in enumerate(EXAMPLES)]
        sent = []
        for i, site in enumerate(sites):
            site.memory = memory[i]
            LEARNED.train(site)
            w, (v, alpha) = received, own[i]
            for _ in range(2):
                w, v, alpha = stepped(w, v, alpha, *data_of(site))
            assert_close(tensors_of(site), w)
            assert_close(site.kept("own"), v)
            assert abs(float(site.memory["alpha.value"]) - alpha) <= 1e-6
            assert_close(LEARNED.predictor(site).state_dict(), mixed(v, w, alpha))
            sent.append(w)
            own[i] = v, alpha
        received = weighted(sent, EXAMPLES)
        start = mean_of(LEARNED, sites, "common")
        assert_close(start, received)
    assert own[0][1] != 0.5
    assert own[0][1] != own[1][1]


def test_fixed_at_0_it_is_fedavg_bit_for_bit() -> None:
    one, other = (
        site_of(FIXED_AT_0, momentum=0.9, clip=1.0),
        site_of(FEDAVG, momentum=0.9, clip=1.0),
    )
    FIXED_AT_0.train(one)
    FEDAVG.train(other)
    assert same(tensors_of(one), tensors_of(other))
    assert FIXED_AT_0.predictor(one) is one.tail
    assert FIXED_AT_0.deployed(one) == {}
    assert not one.memory


def test_fixed_at_1_it_predicts_as_training_alone_bit_for_bit() -> None:
    one, other = (site_of(m, momentum=0.9, model="mlp_bn") for m in (FIXED_AT_1, LOCAL))
    for _ in range(2):  # momentum is kept from round to round
        FIXED_AT_1.train(one)
        LOCAL.train(other)
        one.tail.load_state_dict({**one.tail.state_dict(), **one.received})
    assert same(dict(FIXED_AT_1.predictor(one).state_dict()), tensors_of(other))
    assert same(dict(FIXED_AT_1.deployed(one)), tensors_of(other))


def test_its_layers_are_those_of_fedavg_bit_for_bit() -> None:
    one, other = site_of(LEARNED, momentum=0.9), site_of(FEDAVG, momentum=0.9)
    LEARNED.train(one)
    FEDAVG.train(other)
    assert same(tensors_of(one), tensors_of(other))


@pytest.mark.parametrize("sign", [1, -1])
def test_the_share_stays_within_0_and_1(sign: int) -> None:
    site = site_of(LEARNED, steps=8)
    LEARNED.train(site)
    # Far along the way that v went, or back: the gradient of alpha is large there.
    for name, w in site.received.items():
        site.memory[f"own.{name}"] = w + 500 * sign * (site.memory[f"own.{name}"] - w)
    LEARNED.train(site)
    assert 0 <= float(site.memory["alpha.value"]) <= 1


def test_the_deployed_network_predicts_as_the_mixture() -> None:
    site = site_of(LEARNED, model="mlp_bn")
    LEARNED.train(site)
    inputs = site.train.inputs.batch(np.arange(6))
    with torch.no_grad():
        wanted = LEARNED.predictor(site).eval()(inputs)
        site.network.load_state_dict({**site.network.state_dict(), **LEARNED.deployed(site)})
        assert torch.equal(site.network.eval()(inputs), wanted)


def test_fine_tuning_improves_the_mixture_and_leaves_w_alone() -> None:
    site = site_of(LEARNED)
    LEARNED.train(site)
    before = tensors_of(site)
    losses = []
    for _ in range(2):
        with torch.no_grad():
            outputs = LEARNED.predictor(site)(site.train.inputs.batch(np.arange(6)))
        losses.append(float(CrossEntropy()(outputs, torch.from_numpy(site.train.labels))))
        LEARNED.fine_tune(site, ("common",), 5)
    assert losses[1] < losses[0]
    assert same(tensors_of(site), before)


@pytest.mark.parametrize("method", [LEARNED, FIXED_AT_1])
def test_it_says_that_clipping_is_for_both_models(method: Method) -> None:
    assert (
        "train.clip=5 bounds the gradient of both models"
        in method.check_training(compose("har", []).train)[0]
    )
    assert not method.check_training(compose("har", ["train.clip=null"]).train)
    assert not FIXED_AT_0.check_training(compose("har", []).train)


def test_all_that_is_not_frozen_is_common() -> None:
    assert groups_of(LEARNED) == groups_of(FEDAVG)


def test_the_share_is_checked() -> None:
    with pytest.raises(UserError, match=r"method\.alpha must be 0 to 1, got 1\.5"):
        make_method({"name": "apfl", "alpha": 1.5, "adaptive": True})
    with pytest.raises(UserError, match=r"would never get a gradient.*method\.adaptive=false"):
        make_method({"name": "apfl", "alpha": 0.0, "adaptive": True})
