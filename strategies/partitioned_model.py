"""Builds the model of a plan: the network, the modules that the method adds, and the partition."""

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
from models.groups import Partition, Scope, partition_tensors
from models.networks import build
from strategies.method import Made, Method

NEAREST_FIRST = (Scope.ONE_SITE, Scope.SAME_TASK, Scope.ALL_SITES)


class ModelWithExtras(nn.Module):
    """The children of the network under their own names, and the method's modules as ``extras``.

    The partition is over its ``state_dict``. What runs is the network itself: a `nn.Sequential` would
    run the extras too.
    """

    def __init__(self, network: nn.Sequential, extras: nn.Module | None) -> None:
        super().__init__()
        for name, child in network._modules.items():
            self.add_module(name, child)
        if extras is not None:
            self.add_module("extras", extras)


@dataclass(frozen=True)
class PartitionedModel:
    """A built model with its partition.

    Parameters
    ----------
    model : nn.Module
        All tensors, by the partition's names.
    network : nn.Sequential
        From inputs to logits; shares the tensors of ``model``.
    partition : Partition
        Which tensor belongs to which group.
    cut : int
        Number of leading steps of the frozen prefix; see `models.freezing.frozen_cut`.
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
            If one has another shape than the model's; nothing is copied then.
        """
        own = self.model.state_dict()
        for name, tensor in tensors.items():
            if tensor.shape != own[name].shape:
                raise UserError(_other_shape(name, tensor.shape, own[name].shape))
        with torch.no_grad():
            for name, tensor in tensors.items():
                own[name].copy_(tensor)

    def load_pretrained(self, weights: Mapping[str, Tensor]) -> None:
        """Copy pre-trained weights into the model, except those that `not_loaded` names."""
        skipped = self.not_loaded({name: tuple(tensor.shape) for name, tensor in weights.items()})
        self.load({name: tensor for name, tensor in weights.items() if name not in skipped})

    def not_loaded(self, shapes: Mapping[str, tuple[int, ...]]) -> set[str]:
        """Return the pre-trained tensors of these shapes that the model cannot load.

        Only tensors of the head may have another shape, as in `models.weights.load_into`: a task
        may have more classes than the weights were trained for.

        Raises
        ------
        UserError
            If a tensor outside the head has another shape: the weights are for other inputs.
        """
        own = self.model.state_dict()
        skipped = {name for name, shape in shapes.items() if shape != tuple(own[name].shape)}
        for name in sorted(skipped):
            if name.partition(".")[0] != "head":
                raise UserError(
                    "the pre-trained weights are for other inputs: "
                    f"{_other_shape(name, shapes[name], own[name].shape)}; give the data the shape that "
                    "the weights need (such as data.channels=3), or choose weights=none"
                )
        return skipped

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
    """Build the model of ``plan`` from its seed, and put its tensors into the groups of ``method``.

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
        The directory of this machine with the folders of models that a plan may name; see `build`.

    Raises
    ------
    UserError
        If the model cannot be built, the groups do not fit it, or the plan fine-tunes a group that
        does not exist or is frozen.
    """
    options = dict(plan.model)
    name, head = str(options.pop("name")), options.pop("head", ())
    if given := {"input_shape", "classes", "models_dir"} & options.keys():
        raise UserError(f"model has no option {min(given)!r}: each machine sets it itself")
    # In a fork of the generator: building a model must not shift the random numbers of its caller.
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
        extras_seed = derive_seed(plan.seed, "extras")
        made = Made(
            network, tuple(input_shape), classes, plan.groups, models_dir, name, extras_seed
        )
        extras = method.extras(made)
    model = ModelWithExtras(network, extras)
    partition = partition_tensors(model, method.groups(plan.groups, model), method.known_groups())
    if plan.tuning.epochs:
        _check_tuned(partition, plan.tuning.groups, method)
    freeze(model, partition)
    return PartitionedModel(model, network, partition, frozen_cut(network, partition))


def _other_shape(name: str, given: Sequence[int], own: Sequence[int]) -> str:
    return f"{name} is {tuple(given)}, the model's is {tuple(own)}"


def tuned_groups(partition: Partition, wanted: Sequence[str] | None) -> tuple[str, ...]:
    """Return the groups that fine-tuning changes: those wanted, as far as they have layers.

    With None, the personal layers; where there are none, those of the task; else the common ones.
    """
    there = [
        name
        for name, group in partition.groups.items()
        if group.trained and any(partition.specs[each].floating for each in partition.names(name))
    ]
    if wanted is not None:
        return tuple(group for group in wanted if group in there)
    for scope in NEAREST_FIRST:
        if found := tuple(name for name in there if partition.groups[name].scope is scope):
            return found
    return ()


def _check_tuned(partition: Partition, groups: Sequence[str] | None, method: Method) -> None:
    """Raise UserError if ``deployment.groups`` names a group that no site can train, or tunes none."""
    trained = [name for name, group in partition.groups.items() if group.trained]
    for group in groups or ():
        if group not in trained:
            why = "is frozen" if group in partition.groups else "does not exist"
            raise UserError(f"deployment.groups: {group!r} {why}; choose from {', '.join(trained)}")
    if groups and method.tunes and not set(groups) & set(method.tunes):
        raise UserError(
            f"deployment.groups=[{','.join(groups)}]: method {method.name} predicts with group "
            f"{', '.join(method.tunes)} alone: write deployment.groups=[{','.join(method.tunes)}]"
        )
