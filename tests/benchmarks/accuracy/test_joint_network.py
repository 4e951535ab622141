"""Networks of several tasks share the common tensors, and their loss weighs the tasks right."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from benchmarks.accuracy.joint_network import build_joint, joint_loss
from benchmarks.flower.site_data import sites_data
from models.training.data import SiteData
from server_app.compose import compose
from strategies.config import Config
from tests.helpers.runs import SMALL

MLP = (*SMALL, "model=mlp", "model.hidden=[12,8]", "model.head=[]", "data.train=8")
GROUPS = ("groups.common=[fc1]", "groups.task=[fc2,head]")


@pytest.fixture(scope="module")
def config() -> Config:
    return compose("faces", [*MLP, *GROUPS])


@pytest.fixture(scope="module")
def tasks(config: Config) -> dict[str, list[SiteData]]:
    return {data.task: [data] for data in sites_data(config, 2, None)}


def test_common_layers_are_one_tensor_and_others_one_per_task(
    config: Config, tasks: dict[str, list[SiteData]]
) -> None:
    joint, cut = build_joint(config, tasks, {})
    assert cut == 0  # nothing is frozen
    one, two = (dict(each.model.named_parameters()) for each in joint.partitioned_models.values())
    shared = {name for name in one if one[name] is two[name]}
    assert shared == {"fc1.weight", "fc1.bias"}
    assert len(joint.parameters()) == 2 * len(one) - len(shared)
    assert joint.layers_per_task()
    assert [name for name, _ in joint.body.named_parameters()] == ["fc1.weight", "fc1.bias"]


def test_one_task_has_one_network(config: Config, tasks: dict[str, list[SiteData]]) -> None:
    joint, _ = build_joint(config, dict(list(tasks.items())[:1]), {})
    assert not joint.layers_per_task()


def test_the_loss_of_a_task_weighs_its_share_of_the_batch(
    config: Config, tasks: dict[str, list[SiteData]]
) -> None:
    joint, _ = build_joint(config, tasks, {})
    names = sorted(tasks)
    rows = torch.randn(
        4, joint.body(torch.zeros(1, *next(iter(tasks.values()))[0].input_shape)).shape[1]
    )
    codes = torch.tensor([0, 1, 1, 3 + 1])  # three rows of the first task, one of the second
    expected = (
        2
        / 4
        * (
            3 * functional.cross_entropy(joint.tails[names[0]](rows[:3]), codes[:3])
            + functional.cross_entropy(joint.tails[names[1]](rows[3:]), codes[3:] - 3)
        )
    )
    assert torch.allclose(joint_loss(joint, names, 3)(rows, codes), expected)


def test_the_gradient_of_a_shared_layer_is_the_mean_over_tasks(
    config: Config, tasks: dict[str, list[SiteData]]
) -> None:
    joint, _ = build_joint(config, tasks, {})
    for network in joint.partitioned_models.values():
        first = dict(network.model.named_parameters())["fc1.bias"]
    first.sum().backward()
    assert first.grad is not None
    assert torch.equal(first.grad, torch.full_like(first, 1 / len(tasks)))
