"""Optimizers of many models at once keep the state that torch's keep, and step as they do."""

from __future__ import annotations

import pytest
import torch

from fedstrata.protocol.plan import FitConfig, OptimizerConfig
from models.training.loop import OPTIMIZERS, FitSettings, OptimizerState, make_optimizer
from models.training.stacked_optimizers import STACKED


def settings_of(name: str, momentum: float = 0.9) -> FitSettings:
    return FitSettings(
        FitConfig(1, None, 8, OptimizerConfig(name, 0.01, momentum, 1e-2), None, "none")
    )


def test_there_is_one_for_each_optimizer() -> None:
    assert STACKED.keys() == OPTIMIZERS.keys()


@pytest.mark.parametrize("name", list(STACKED))
def test_models_step_as_alone_each_as_often_as_it_has_batches(name: str) -> None:
    torch.manual_seed(0)
    start, steps = torch.randn(3, 4, 5), [3, 2, 1]
    gradients = torch.randn(3, 3, 4, 5)
    states: list[OptimizerState] = [{}, {}, {}]
    stack = {"w": start.clone()}
    stacked = STACKED[name](stack, states, settings_of(name))
    for number in range(3):
        active = sum(count > number for count in steps)
        stacked.step({"w": gradients[number, :active].clone()}, None)
    stacked.save(steps, ["w"])
    for i, count in enumerate(steps):
        alone = torch.nn.Parameter(start[i].clone())
        optimizer = make_optimizer({"w": alone}, settings_of(name))
        for number in range(count):
            alone.grad = gradients[number, i].clone()
            optimizer.step()
        assert torch.allclose(stack["w"][i], alone, rtol=0, atol=1e-6)
        kept = {k: v for k, v in optimizer.state[alone].items() if torch.is_tensor(v)}
        assert states[i]["w"].keys() == kept.keys()
        assert all(torch.allclose(states[i]["w"][k], v, atol=1e-6) for k, v in kept.items())


def test_without_momentum_there_is_no_state() -> None:
    stack = {"w": torch.zeros(2, 3)}
    states: list[OptimizerState] = [{}, {}]
    stacked = STACKED["sgd"](stack, states, settings_of("sgd", momentum=0.0))
    stacked.step({"w": torch.ones(2, 3)}, torch.tensor([1.0, 0.5]))
    stacked.save([1, 1], ["w"])
    assert states == [{}, {}]
    assert torch.allclose(stack["w"], torch.tensor([[-0.01], [-0.005]]).expand(2, 3))


def test_a_momentum_that_begins_is_the_first_gradient_to_the_bit() -> None:
    torch.manual_seed(0)
    start, gradients = torch.randn(2, 300), torch.randn(3, 2, 300)
    stack = {"w": start.clone()}
    states: list[OptimizerState] = [{}, {"w": {"momentum_buffer": torch.zeros(300)}}]
    stacked = [
        STACKED["sgd"]({"w": stack["w"][:1]}, states[:1], settings_of("sgd")),
        STACKED["sgd"]({"w": stack["w"][1:]}, states[1:], settings_of("sgd")),
    ]
    for number in range(3):
        for i, each in enumerate(stacked):
            each.step({"w": gradients[number, i : i + 1].clone()}, None)
    for i in range(2):
        alone = torch.nn.Parameter(start[i].clone())
        optimizer = make_optimizer({"w": alone}, settings_of("sgd"))
        for number in range(3):
            alone.grad = gradients[number, i].clone()
            optimizer.step()
        assert torch.equal(stack["w"][i], alone.detach())


def test_a_parameter_whose_gradient_comes_later_has_no_momentum_of_models_that_are_done() -> None:
    states: list[OptimizerState] = [{}, {}]
    stacked = STACKED["sgd"]({n: torch.ones(2, 3) for n in "vw"}, states, settings_of("sgd"))
    stacked.step({"v": torch.ones(2, 3)}, None)
    stacked.step({n: torch.ones(1, 3) for n in "vw"}, None)
    stacked.save([2, 1], ["v", "w"])
    assert states[1]["w"]["momentum_buffer"].tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("momentum_of", ["own", "shared", "expanded"])
def test_a_gradient_that_becomes_the_momentum_is_nobody_elses(momentum_of: str) -> None:
    torch.manual_seed(0)
    start, first, second = torch.randn(2, 5), torch.randn(2, 5), torch.randn(2, 5)
    given = {
        "own": {"v": first.clone(), "w": first.clone()},
        "shared": dict.fromkeys("vw", first.clone()),
        "expanded": dict.fromkeys("vw", first[:, :1].clone().expand(2, 5)),
    }[momentum_of]
    expected = given["v"].clone()
    stack = {name: start.clone() for name in "vw"}
    stacked = STACKED["sgd"](stack, [{}, {}], settings_of("sgd"))
    stacked.step(given, None)
    stacked.step({"v": second, "w": second.clone()}, None)
    alone = torch.nn.Parameter(start.clone())
    optimizer = make_optimizer({"w": alone}, settings_of("sgd"))
    for gradient in (expected, second):
        alone.grad = gradient.clone()
        optimizer.step()
    assert torch.equal(stack["v"], alone.detach())
    assert torch.equal(stack["w"], alone.detach())
