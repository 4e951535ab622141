"""The interface of a method: a payload that is no layer, partial work, and what is refused."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from torch import nn

from fedstrata.protocol.task_kinds import TaskKind
from fedstrata.support.errors import UserError
from models.groups import partition_tensors
from server_app.compose import compose
from strategies import methods
from strategies.method import Method, above_zero, at_least, check_crossing, needs_classes, remarks
from strategies.methods import make_method
from tests.helpers.prototypes import FedProto
from tests.helpers.runs import SMALL, states
from tests.loopback import LoopbackGrid, simulate

FEDPROX = {"name": "fedprox", "mu": 0.1, "adapt": False, "step": 0.1}


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "METHODS", {**methods.METHODS, "fedproto": FedProto})


def test_a_payload_that_is_no_layer_travels_in_a_group_of_its_own(tmp_path: Path) -> None:
    overrides = [*SMALL, "method.name=fedproto", "+method.weight=0.1"]
    results, _ = simulate(tmp_path, "faces", overrides, sites=2)
    assert set(results["rounds"][0]["bytes_up"]) == {"prototypes"}
    (means,) = states(tmp_path, results["run"]).values()
    assert means.shape == (2, 256)
    assert means.abs().sum() > 0
    assert results["partition"]["gender"][-1]["sent_to"] == "all sites"


def test_a_method_that_does_not_exist_is_answered_with_those_that_do() -> None:
    with pytest.raises(Exception, match=r"fedavg.*fedprox"):
        make_method({"name": "fedavgg"})
    with pytest.raises(Exception, match=r"method has no option 'muu'; there is 'mu'"):
        make_method({**FEDPROX, "muu": 1})
    with pytest.raises(Exception, match=r"method\.mu must be 0 or greater"):
        make_method({**FEDPROX, "mu": -1.0})


def test_fedprox_takes_partial_work_and_fedavg_does_not() -> None:
    assert make_method(FEDPROX).reject_reason(3, 10) is None
    assert make_method(FEDPROX).reject_reason(0, 10)
    assert "3 of 10" in str(make_method({"name": "fedavg"}).reject_reason(3, 10))


def test_a_site_with_a_limit_of_steps_takes_part_where_the_method_allows(tmp_path: Path) -> None:
    nodes = {i: {"partition-id": i, "num-partitions": 2} for i in range(2)}
    nodes[1]["max-steps"] = 1
    grid = LoopbackGrid(nodes, {"output-dir": str(tmp_path)})
    results, _ = simulate(tmp_path, "faces", [*SMALL, "method=fedprox"], grid=grid)
    assert "site-01" in results["rounds"][0]["participants"]
    expected = (
        r"site-01: this site's max-steps=1 .*did 1 of 3 steps.*method fedprox accepts partial work"
    )
    with pytest.raises(UserError, match=expected):
        simulate(tmp_path, "faces", [*SMALL, "method=fedavg"], grid=grid)
    # where fine-tuning follows, it has something to join for
    tuned = [*SMALL, "method=fedavg", "deployment.epochs=1"]
    results, _ = simulate(tmp_path, "faces", [*tuned, "deployment.groups=[common]"], grid=grid)
    assert "1 of 3 steps" in results["rounds"][0]["refused"]["site-01"]
    assert results["deployment"]["sites"]["site-01"]["steps"] == 1


@pytest.mark.parametrize(("method", "group"), [("local", "personal"), ("fedavg", "common")])
def test_a_method_takes_what_is_trained_where_the_rest_is_frozen(method: str, group: str) -> None:
    configured = {"pretrained": ["..."], "common": ["layer4"], "task": ["head"], "personal": []}
    model = nn.ModuleDict({name: nn.Linear(2, 2) for name in ("layer3", "layer4", "head")})
    groups = make_method({"name": method}).groups(configured, model)
    made = partition_tensors(model, groups)
    assert set(made.names("pretrained")) == {"layer3.weight", "layer3.bias"}
    assert len(made.names(group)) == 4


def test_that_a_methods_own_networks_are_not_compiled_is_said() -> None:
    train = replace(compose("faces", []).train, compile=True)
    (said,) = remarks(make_method({"name": "ditto", "pull": 0.1}), train)
    assert "method ditto also runs networks of its own, and these are not compiled" in said
    assert not remarks(make_method({"name": "fedavg"}), train)
    assert not remarks(make_method({"name": "ditto", "pull": 0.1}), replace(train, compile=False))


def test_that_frozen_layers_run_in_every_step_for_a_network_on_the_inputs_is_said() -> None:
    train = compose("faces", []).train
    fml = make_method({"name": "fml", "alpha": 0.5, "beta": 0.5, "model": "auto"})
    (said,) = remarks(fml, train, frozen=True)
    assert "outputs of frozen layers are not cached but computed in every step" in said
    assert not remarks(fml, train)
    assert not remarks(fml, replace(train, cache_features=False), frozen=True)
    assert not remarks(make_method({"name": "fedavg"}), train, frozen=True)


def test_layers_that_would_change_no_measure_do_not_cross() -> None:
    ditto = make_method({"name": "ditto", "pull": 0.1})
    with pytest.raises(UserError, match="method ditto a site predicts with a model of its own"):
        check_crossing(ditto, "updates")
    check_crossing(ditto, "models")
    check_crossing(make_method({"name": "fedavg"}), "updates")


@dataclass(frozen=True)
class Numbers(Method):
    """A method with two numbers."""

    weight: float
    steps: int

    name = "numbers"


def test_numbers_out_of_their_range_are_named() -> None:
    at_least(0, Numbers(0.0, 0), "weight", "steps")
    at_least(1, Numbers(0.0, 1), "steps")
    above_zero(Numbers(1e-9, 1), "weight", "steps")
    for weight in (-1e-9, math.nan):
        with pytest.raises(UserError, match=rf"^method\.weight must be 0 or greater, got {weight}"):
            at_least(0, Numbers(weight, 0), "steps", "weight")
    with pytest.raises(UserError, match=r"^method\.steps must be 2 or greater, got 1$"):
        at_least(2, Numbers(2.0, 1), "weight", "steps")
    for weight in (0.0, math.nan):
        with pytest.raises(UserError, match=rf"^method\.weight must be above 0, got {weight}$"):
            above_zero(Numbers(weight, 1), "steps", "weight")


def test_a_method_that_needs_classes_says_what_for() -> None:
    needs_classes(Numbers(1.0, 1), TaskKind("classes"), "counts classes")
    with pytest.raises(UserError) as found:
        needs_classes(Numbers(1.0, 1), TaskKind("labels"), "counts classes", "ditto")
    assert str(found.value) == (
        "method=numbers counts classes, and a task of kind labels has none: choose a method that needs "
        "no classes, such as method=ditto"
    )
