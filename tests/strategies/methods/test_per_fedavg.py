"""Per-FedAvg takes the gradient after an inner step, and predicts after one."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from fedstrata.support.errors import UserError
from models.training.losses import CrossEntropy
from strategies.method import Method
from strategies.methods import make_method
from tests.helpers.method_rounds import data_of, mean_of, weighted
from tests.helpers.methods import groups_of
from tests.helpers.site_rounds import (
    FULL,
    LR,
    Weights,
    close,
    loss_and_gradients,
    moved,
    tiny_round,
    weights_of,
)

ALPHA, DELTA = 0.2, 0.001


def made(second_order: str = "first", alpha: float = ALPHA) -> Method:
    options = {"alpha": alpha, "second_order": second_order, "delta": DELTA}
    return make_method({"name": "per_fedavg", **options})


def test_its_groups_are_the_configured_ones() -> None:
    assert groups_of(made())["task"] == {"head"}


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("alpha", -1.0, r"method\.alpha must be 0 or greater, got -1"),
        ("second_order", "second", r"second_order must be first or hessian_free, got 'second'"),
        ("delta", 0.0, r"method\.delta must be above 0"),
    ],
)
def test_a_value_out_of_its_range_is_an_error(key: str, value: object, said: str) -> None:
    options = {"name": "per_fedavg", "alpha": 0.1, "second_order": "first", "delta": 0.1}
    with pytest.raises(UserError, match=said):
        make_method({**options, key: value})


def direction(w: Weights, batches: list, second_order: str) -> Weights:  # type: ignore[type-arg]
    """Return the paper's direction of an outer step, in numpy."""
    v = loss_and_gradients(moved(w, loss_and_gradients(w, *batches[0])[1], -ALPHA), *batches[1])[1]
    if second_order == "first":
        return v
    ahead, behind = (
        loss_and_gradients(moved(w, v, sign * DELTA), *batches[2])[1] for sign in (1, -1)
    )
    return {n: v[n] - ALPHA * (ahead[n] - behind[n]) / (2 * DELTA) for n in v}


@pytest.mark.parametrize(("second_order", "parts"), [("first", 2), ("hessian_free", 3)])
def test_a_round_of_two_sites_is_that_of_the_paper(second_order: str, parts: int) -> None:
    method, size = made(second_order), 3
    sites = [
        tiny_round(method, seed, examples=size * parts * steps, batch_size=size)
        for seed, steps in ((0, 1), (1, 2))
    ]
    expected = []
    for seed, site in enumerate(sites):
        w, (inputs, labels) = weights_of(site), data_of(site)
        order = np.random.default_rng(seed).permutation(len(labels))
        for step in np.split(order, len(order) // (size * parts)):
            batches = [(inputs[rows], labels[rows]) for rows in np.split(step, parts)]
            w = moved(w, direction(w, batches, second_order), -LR)
        method.train(site)
        assert close(site, w)
        assert site.fits[0].steps == site.fits[0].planned == seed + 1
        expected.append(w)
    after = mean_of(method, sites, "common")
    mean = weighted(expected, [len(site.train) for site in sites])
    assert all(np.allclose(after[n].numpy(), each, atol=1e-6) for n, each in mean.items())


def test_the_second_order_term_is_that_of_exact_second_derivatives() -> None:
    method = made("hessian_free")
    site = tiny_round(method, examples=6, batch_size=2)
    w = {n: t.detach().double().requires_grad_() for n, t in site.network.state_dict().items()}
    inputs, labels = (torch.from_numpy(each) for each in data_of(site))
    order = np.random.default_rng(0).permutation(6)
    network = site.network.double()

    def gradient(at: dict[str, torch.Tensor], rows: np.ndarray, **more: bool) -> list[torch.Tensor]:
        outputs = torch.func.functional_call(network, at, (inputs[rows],))
        loss = torch.nn.functional.cross_entropy(outputs, labels[rows])
        return list(torch.autograd.grad(loss, list(at.values()), **more))

    inner = gradient(w, order[:2])
    v = gradient({n: t - ALPHA * g for (n, t), g in zip(w.items(), inner, strict=True)}, order[2:4])
    slope = gradient(w, order[4:], create_graph=True)
    along = sum(torch.sum(s * each) for s, each in zip(slope, v, strict=True))
    curved = torch.autograd.grad(along, list(w.values()))
    expected = {
        n: (t - LR * (each - ALPHA * h)).detach().numpy()
        for (n, t), each, h in zip(w.items(), v, curved, strict=True)
    }
    site.network.float()
    method.train(site)
    assert close(site, expected)


def test_alpha_0_trains_and_predicts_as_layers_bit_for_bit() -> None:
    off, plain = made(alpha=0), make_method({"name": "layers"})
    sites = [tiny_round(each, batch_size=3, momentum=0.9) for each in (off, plain)]
    for method, site in zip((off, plain), sites, strict=True):
        method.train(site)
    one, other = (site.network.state_dict() for site in sites)
    assert all(torch.equal(one[n], other[n]) for n in one)
    assert off.predictor(sites[0]) is sites[0].tail
    assert off.deployed(sites[0]) == {}


@pytest.mark.parametrize("size", [3, FULL])
def test_it_predicts_after_one_step_on_all_training_examples(size: int) -> None:
    method = made()
    site = tiny_round(method, batch_size=size)
    before = weights_of(site)
    expected = moved(before, loss_and_gradients(before, *data_of(site))[1], -ALPHA)
    first, again = method.predictor(site).state_dict(), method.predictor(site).state_dict()
    deployed = method.deployed(site)
    assert deployed is not None
    for name, each in expected.items():
        assert np.allclose(first[name].numpy(), each, atol=1e-6)
        assert torch.equal(first[name], again[name])
        assert torch.equal(first[name], deployed[name])
    assert close(site, before)  # w itself stays as it is


def test_the_step_weighs_classes_as_the_loss_does() -> None:
    method, weight = made(), torch.tensor([0.5, 3.0])
    found = []
    for size in (3, FULL):
        site = replace(tiny_round(method, batch_size=size), loss=CrossEntropy(weight))
        found.append(method.predictor(site).state_dict())
    assert all(torch.allclose(found[0][n], found[1][n], atol=1e-7) for n in found[0])
    plain = method.predictor(tiny_round(method)).state_dict()
    assert not torch.allclose(plain["head.out.bias"], found[0]["head.out.bias"], atol=1e-4)


def test_a_frozen_layer_takes_no_step() -> None:
    groups = {"pretrained": ["fc1"], "common": ["head"]}
    site = tiny_round(made(), groups=groups)
    start = site.network.state_dict()["fc1.weight"].clone()
    made().train(site)
    assert torch.equal(made().predictor(site).state_dict()["fc1.weight"], start)
    assert torch.equal(site.network.state_dict()["fc1.weight"], start)


def test_a_batch_too_small_to_be_cut_is_taken_whole() -> None:
    method = made()
    site = tiny_round(method, examples=3, batch_size=2)
    w, data = weights_of(site), data_of(site)
    method.train(site)
    assert close(site, moved(w, direction(w, [data, data], "first"), -LR))


def test_fine_tuning_trains_by_the_plain_loss() -> None:
    method = made()
    site = tiny_round(method)
    w, data = weights_of(site), data_of(site)
    method.fine_tune(site, ["common"], 2)
    for _ in range(2):
        w = moved(w, loss_and_gradients(w, *data)[1], -LR)
    assert close(site, w)


@pytest.mark.parametrize("frozen", [False, True])
def test_the_step_normalizes_as_training_does_and_changes_no_statistics(frozen: bool) -> None:
    groups = {"pretrained": ["fc1", "bn1"] if frozen else [], "common": ["..."]}
    method = made()
    site = tiny_round(method, groups=groups, model_name="mlp_bn")
    before = {n: t.clone() for n, t in site.network.state_dict().items()}
    adapted = method.predictor(site).state_dict()
    network = copy.deepcopy(site.network).train(not frozen)
    inputs, labels = data_of(site)
    outputs = network(torch.from_numpy(inputs).float())
    torch.nn.functional.cross_entropy(outputs, torch.from_numpy(labels)).backward()
    weight = network.get_parameter("head.out.weight")
    assert weight.grad is not None
    expected = (weight - ALPHA * weight.grad).detach()
    assert torch.allclose(adapted["head.out.weight"], expected, atol=1e-6)
    assert all(torch.equal(adapted[n], before[n]) for n in before if n.startswith("bn1.running"))
    assert all(torch.equal(t, before[n]) for n, t in site.network.state_dict().items())
