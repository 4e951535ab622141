"""Networks of several tasks share the common tensors, and their loss weighs the tasks right."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from benchmarks.flower.site_data import sites_data
from client_app.pooled.network import build_joint, joint_loss, joint_rows
from fedstrata.protocol.plan import Plan
from models.training.data import SiteData
from models.training.objectives import OneOfClasses, objective_of
from server_app.compose import compose
from strategies.config import Config, plan_for
from tests.helpers.runs import SMALL

MLP = (*SMALL, "model=mlp", "model.hidden=[12,8]", "model.head=[]", "data.train=8")
GROUPS = ("groups.common=[fc1]", "groups.task=[fc2,head]")


@pytest.fixture(scope="module")
def config() -> Config:
    return compose("faces", [*MLP, *GROUPS])


@pytest.fixture(scope="module")
def plan(config: Config) -> Plan:
    return plan_for(config, federation="f", weights="")


@pytest.fixture(scope="module")
def tasks(config: Config) -> dict[str, list[SiteData]]:
    return {data.task: [data] for data in sites_data(config, 2, None)}


def test_common_layers_are_one_tensor_and_others_one_per_task(
    plan: Plan, tasks: dict[str, list[SiteData]]
) -> None:
    joint, cut = build_joint(plan, tasks, {})
    assert cut == 0  # nothing is frozen
    one, two = (dict(each.model.named_parameters()) for each in joint.partitioned_models.values())
    shared = {name for name in one if one[name] is two[name]}
    assert shared == {"fc1.weight", "fc1.bias"}
    assert len(joint.parameters()) == 2 * len(one) - len(shared)
    assert joint.layers_per_task()
    assert [name for name, _ in joint.body.named_parameters()] == ["fc1.weight", "fc1.bias"]


def test_one_task_has_one_network(plan: Plan, tasks: dict[str, list[SiteData]]) -> None:
    joint, _ = build_joint(plan, dict(list(tasks.items())[:1]), {})
    assert not joint.layers_per_task()


def test_the_loss_of_a_task_weighs_its_share_of_the_batch(
    plan: Plan, tasks: dict[str, list[SiteData]]
) -> None:
    joint, _ = build_joint(plan, tasks, {})
    names = sorted(tasks)
    rows = torch.randn(
        4, joint.body(torch.zeros(1, *next(iter(tasks.values()))[0].input_shape)).shape[1]
    )
    # Three rows of the first task, one of the second.
    labels = torch.from_numpy(joint_rows([np.array([0, 1, 1]), np.array([1])], [0, 1]))
    codes = torch.tensor([0, 1, 1, 1])
    expected = (
        2
        / 4
        * (
            3 * functional.cross_entropy(joint.tails[names[0]](rows[:3]), codes[:3])
            + functional.cross_entropy(joint.tails[names[1]](rows[3:]), codes[3:])
        )
    )
    objectives = {name: OneOfClasses(2) for name in names}
    assert torch.allclose(joint_loss(joint, objectives)(rows, labels), expected)


def test_tasks_of_all_kinds_are_trained_together() -> None:
    several = compose("faces", [*MLP, *GROUPS, "data.tasks=[gender,age_years,all]"])
    tasks = {data.task: [data] for data in sites_data(several, 3, None)}
    joint, _ = build_joint(plan_for(several, federation="f", weights=""), tasks, {})
    names = sorted(tasks)
    objectives = {n: objective_of(tasks[n][0].kind, len(tasks[n][0].classes)) for n in names}
    splits = [tasks[name][0].train for name in names]
    rows = joint.body(torch.cat([split.inputs.batch(np.arange(8)) for split in splits]))
    labels = joint_rows([split.labels for split in splits], [0, 1, 2])
    expected = sum(
        objectives[name].loss(split.labels, "none", torch.device("cpu"))(
            joint.tails[name](part), torch.from_numpy(split.labels)
        )
        for name, split, part in zip(names, splits, rows.split(8), strict=True)
    )
    assert joint_loss(joint, objectives)(rows, torch.from_numpy(labels)).item() == pytest.approx(
        float(torch.as_tensor(expected).detach()), rel=1e-5
    )


def test_the_gradient_of_a_shared_layer_is_the_mean_over_tasks(
    plan: Plan, tasks: dict[str, list[SiteData]]
) -> None:
    joint, _ = build_joint(plan, tasks, {})
    for network in joint.partitioned_models.values():
        first = dict(network.model.named_parameters())["fc1.bias"]
    first.sum().backward()
    assert first.grad is not None
    assert torch.equal(first.grad, torch.full_like(first, 1 / len(tasks)))
