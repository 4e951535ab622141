"""One network per task with common layers: the same tensors, trained on batches of all tasks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from fedstrata.protocol.plan import Plan
from fedstrata.protocol.task_kinds import CLASSES
from models import freezing
from models.freezing import set_train_mode
from models.training import loop
from models.training.data import Labels, SiteData
from models.training.objectives import Objective
from strategies.methods import make_method
from strategies.partitioned_model import PartitionedModel, build_partitioned


@dataclass
class Joint:
    """One network per task, the common tensors shared between them.

    Parameters
    ----------
    body : nn.Module
        The leading steps that all tasks share, run once for a whole batch.
    tails : dict
        Task to the steps behind the body.
    partitioned_models : dict
        Task to the whole model.
    """

    body: nn.Module
    tails: dict[str, nn.Module]
    partitioned_models: dict[str, PartitionedModel]

    def parameters(self) -> dict[str, nn.Parameter]:
        """Return what is trained, each tensor once."""
        found: dict[int, tuple[str, nn.Parameter]] = {}
        for task, partitioned in self.partitioned_models.items():
            for name, parameter in partitioned.model.named_parameters():
                if parameter.requires_grad:
                    found.setdefault(id(parameter), (f"{task}/{name}", parameter))
        return dict(found.values())

    def layers_per_task(self) -> bool:
        """Return whether any tensor is a task's own; otherwise there is one model for all."""
        return len(self.tails) > 1 and any(tail.state_dict() for tail in self.tails.values())

    def train_mode(self) -> None:
        """Put everything but the frozen layers in train mode."""
        for partitioned in self.partitioned_models.values():
            set_train_mode(partitioned.network, partitioned.partition)

    def network(self, task: str) -> nn.Module:
        """Return the whole network of a task."""
        return nn.Sequential(self.body, self.tails[task])


def build_joint(
    plan: Plan,
    tasks: Mapping[str, list[SiteData]],
    start: Mapping[str, Tensor],
    models_dir: Path | None = None,
) -> tuple[Joint, int]:
    """Build a network per task from the start weights, and share what is common.

    Returns the networks and the number of leading steps that are frozen, whose outputs can be cached.
    Where tasks have layers of their own, the gradient of a shared layer is that of `joint_loss` over
    the number of tasks.
    """
    partitioned_models = _build(plan, tasks, start, models_dir)
    first = next(iter(partitioned_models.values()))
    shared = {
        name
        for name, group in first.partition.group_of.items()
        if group in ("pretrained", "common") or len(partitioned_models) == 1
    }
    for partitioned in partitioned_models.values():
        _share(partitioned.model, first.model, shared)
    # Augmented inputs differ in every pass, so that their outputs are of no use in the next.
    cut = first.cut if plan.train.cache_features and plan.train.augment == "none" else 0
    joint = _split(partitioned_models, cut, shared)
    if joint.layers_per_task():
        for name, parameter in first.model.named_parameters():
            if name in shared and parameter.requires_grad:
                parameter.register_hook(  # type: ignore[no-untyped-call]
                    lambda gradient: gradient / len(partitioned_models)
                )
    return joint, cut


def _build(
    plan: Plan,
    tasks: Mapping[str, list[SiteData]],
    start: Mapping[str, Tensor],
    models_dir: Path | None,
) -> dict[str, PartitionedModel]:
    method = make_method(plan.method)
    models = {}
    for task, members in tasks.items():
        data = members[0]
        model = build_partitioned(
            plan,
            method,
            input_shape=data.input_shape,
            classes=len(data.classes),
            models_dir=models_dir,
        )
        model.load_pretrained({n: t for n, t in start.items() if n in model.model.state_dict()})
        models[task] = model
    return models


def _split(models: dict[str, PartitionedModel], cut: int, shared: set[str]) -> Joint:
    """Return the networks without the first ``cut`` steps, and the shared steps after them once."""
    tails = {task: freezing.split_at(model.network, cut)[1] for task, model in models.items()}
    common = 0
    for path, module in freezing.sequential_modules(next(iter(tails.values()))):
        if not shared.issuperset(f"{path}.{name}" for name in module.state_dict()):
            break
        common += 1
    parts = {task: freezing.split_at(tail, common) for task, tail in tails.items()}
    body = next(iter(parts.values()))[0]
    return Joint(body, {task: tail for task, (_, tail) in parts.items()}, models)


def _share(model: nn.Module, first: nn.Module, shared: set[str]) -> None:
    """Let ``model`` use the same tensors as ``first`` where they are named."""
    for path, module in model.named_modules():
        other = first.get_submodule(path)
        for holder, source in (
            (module._parameters, other._parameters),
            (module._buffers, other._buffers),
        ):
            for name in holder:
                if f"{path}.{name}" in shared:
                    holder[name] = source[name]


def joint_rows(labels: Sequence[Labels], owners: Sequence[int]) -> NDArray[np.float32]:
    """Return the labels of several sites as rows of one array: the number of the task, then they.

    Parameters
    ----------
    labels : sequence of NDArray
        Of each site, as a `Split` has them for its task's kind.
    owners : sequence of int
        The number of each site's task.
    """
    width = 1 + max(math.prod(each.shape[1:]) for each in labels)
    rows = []
    for each, owner in zip(labels, owners, strict=True):
        row = np.full((len(each), width), np.nan, dtype=np.float32)
        row[:, 0] = owner
        own = each.reshape(len(each), -1)
        row[:, 1 : 1 + own.shape[1]] = own
        rows.append(row)
    return np.concatenate(rows)


def joint_loss(joint: Joint, tasks: Mapping[str, Objective]) -> loop.Loss:
    """Return the loss of a batch of several tasks, each through its own tail.

    It is the sum over tasks of their mean losses, each weighted by its share of the batch times the
    number of tasks; `build_joint` divides the gradients of the shared layers by that number. So a task's
    layers are stepped by its own mean gradient and the shared ones, wherever they stand, by the mean
    over all, as in a round of equations (1) and (2) with one step.

    Parameters
    ----------
    joint : Joint
        The networks.
    tasks : mapping of str to Objective
        In the order of their numbers in `joint_rows`.
    """
    names = list(tasks)
    losses = [each.loss(np.empty(0), "none", torch.device("cpu")) for each in tasks.values()]

    def loss(shared: Tensor, rows_of_labels: Tensor) -> Tensor:
        total = shared.new_zeros(())
        owners = rows_of_labels[:, 0].long()
        for number in torch.unique(owners).tolist():
            rows = (owners == number).nonzero().squeeze(1)
            objective, task_loss = tasks[names[number]], losses[number]
            outputs = joint.tails[names[number]](shared[rows])
            if objective.kind.name == CLASSES:
                wanted = rows_of_labels[rows, 1].long()
                total = total + functional.cross_entropy(outputs, wanted, reduction="sum")
                continue
            wanted = rows_of_labels[rows, 1 : 1 + objective.outputs]
            total = total + task_loss.each(outputs, wanted, task_loss.own_weight()).sum()
        return len(names) * total / len(rows_of_labels)

    return loss
