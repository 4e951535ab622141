"""The model of a plan, built: the network, the method's own modules, and the partition over both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from fedstrata.protocol.plan import Plan
from fedstrata.support.errors import UserError
from fedstrata.support.seeds import derive_seed
from models.freezing import freeze, frozen_cut
from models.groups import Partition, partition_tensors
from models.networks import build
from strategies.method import Method


class ModelWithExtras(nn.Module):
    """The network's children under their own names, and the method's modules as ``extras``.

    Its ``state_dict`` is what the partition divides; the network is what runs.
    """

    def __init__(self, network: nn.Sequential, extras: nn.Module | None) -> None:
        super().__init__()
        for name, child in network._modules.items():
            self.add_module(name, child)
        if extras is not None:
            self.add_module("extras", extras)


@dataclass(frozen=True)
class PartitionedModel:
    """A built model and its division.

    Parameters
    ----------
    model : nn.Module
        All tensors, by the partition's names.
    network : nn.Sequential
        From inputs to logits; shares the tensors of ``model``.
    partition : Partition
        Which tensor belongs to which group.
    cut : int
        Number of leading steps that are frozen and deterministic; see models/freezing.py.
    """

    model: nn.Module
    network: nn.Sequential
    partition: Partition
    cut: int

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy ``tensors`` into the model by name; all must exist there.

        Raises
        ------
        UserError
            Where one has another shape than the model's; nothing is copied then.
        """
        own = self.model.state_dict()
        for name, tensor in tensors.items():
            if tensor.shape != own[name].shape:
                raise UserError(_other_shape(name, tensor.shape, own[name].shape))
        with torch.no_grad():
            for name, tensor in tensors.items():
                own[name].copy_(tensor)

    def load_pretrained(self, weights: Mapping[str, Tensor]) -> None:
        """Copy pre-trained weights into the model, but for what `not_loaded` names."""
        alone = self.not_loaded({name: tuple(tensor.shape) for name, tensor in weights.items()})
        self.load({name: tensor for name, tensor in weights.items() if name not in alone})

    def not_loaded(self, shapes: Mapping[str, tuple[int, ...]]) -> set[str]:
        """Return which pre-trained tensors of these shapes the model does not take.

        Those of its head in another shape, as `models.weights.load_into` has it: a task may have
        more classes than what was trained elsewhere.

        Raises
        ------
        UserError
            Where a tensor besides the head has another shape: the weights are for other inputs.
        """
        own = self.model.state_dict()
        alone = {name for name, shape in shapes.items() if shape != tuple(own[name].shape)}
        for name in sorted(alone):
            if name.partition(".")[0] != "head":
                raise UserError(
                    "the pre-trained weights are for other inputs: "
                    f"{_other_shape(name, shapes[name], own[name].shape)}; let the data be as the "
                    "weights need them (such as data.channels=3), or choose weights=none"
                )
        return alone

    def tensors(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Return copies of the named tensors, contiguous, on the CPU."""
        own = self.model.state_dict()
        return {n: own[n].detach().cpu().clone().contiguous() for n in names}


def build_partitioned(
    plan: Plan,
    method: Method,
    *,
    input_shape: tuple[int, ...],
    classes: int,
    models_dir: Path | None = None,
) -> PartitionedModel:
    """Build the model of ``plan`` from its seed, and divide it into the groups of ``method``.

    Server and sites call this with the same plan and get the same tensors.

    Parameters
    ----------
    plan : Plan
        Model, groups and seed.
    method : Method
        May change the groups and add modules.
    input_shape : tuple of int
        Shape of one input.
    classes : int
        Number of classes of the task.
    models_dir : Path, optional
        Where this machine has the folders of models that a plan may name; see `build`.

    Raises
    ------
    UserError
        Where the model cannot be built so, or the groups do not fit it, or the plan's fine-tuning
        names a group that does not exist or is frozen.
    """
    options = dict(plan.model)
    name, head = str(options.pop("name")), options.pop("head", ())
    if given := {"input_shape", "classes", "models_dir"} & options.keys():
        raise UserError(f"model has no option {min(given)!r}: each machine sets it itself")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(plan.seed, "start"))
        network = build(
            name,
            input_shape=input_shape,
            classes=classes,
            head=head,
            models_dir=models_dir,
            **options,
        )
        extras = method.extras(network, classes)
    model = ModelWithExtras(network, extras)
    division = partition_tensors(model, method.groups(plan.groups, model), method.known_groups())
    if plan.tuning.epochs:
        _check_tuned(division, plan.tuning.groups)
    freeze(model, division)
    return PartitionedModel(model, network, division, frozen_cut(network, division))


def _other_shape(name: str, given: Sequence[int], own: Sequence[int]) -> str:
    return f"{name} is {tuple(given)}, the model's is {tuple(own)}"


def _check_tuned(division: Partition, groups: Sequence[str]) -> None:
    """Raise UserError where ``deployment.groups`` names a group that no site can train."""
    trained = [name for name, group in division.groups.items() if group.trained]
    for group in groups:
        if group not in trained:
            why = "is frozen" if group in division.groups else "does not exist"
            raise UserError(f"deployment.groups: {group!r} {why}; choose from {', '.join(trained)}")
