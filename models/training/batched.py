"""Trains and runs many small models of one architecture at once, their parameters stacked."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, vmap

from models.freezing import RANDOM
from models.training.data import Split
from models.training.loop import (
    FitReport,
    FitSettings,
    OptimizerState,
    batches,
    normalizes_batches,
    planned_steps,
)
from models.training.losses import TaskLoss
from models.training.proximal import Proximal
from models.training.stacked_optimizers import STACKED, Stack, StackedOptimizer

Penalty = Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], Tensor]


@dataclass
class Learner:
    """One of the models of a batched fit.

    Parameters
    ----------
    split : Split
        Its training examples.
    generator : numpy.random.Generator
        Order of the examples; seeded as for `fit`.
    optimizer_state : mapping
        State of earlier fits by parameter name; replaced by the new state.
    loss : TaskLoss
        What it minimizes; of the same kind for all models of a fit.
    """

    split: Split
    generator: np.random.Generator
    optimizer_state: OptimizerState
    loss: TaskLoss


def why_not_batched(network: nn.Module, settings: FitSettings) -> str:
    """Return why a batched fit of ``network``, in its modes, would not be exact, or ""."""
    config = settings.config
    if settings.autocast:
        return "bfloat16 autocast"
    if config.augment != "none":
        return f"train.augment={config.augment}"
    if settings.micro_batches > 1:
        return "micro-batches, because memory is short"
    for module in network.modules():
        if isinstance(module, RANDOM) and module.training:
            return f"{type(module).__name__}, which draws random numbers for each site"
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.momentum is None:
            return "BatchNorm with a cumulative mean"
    return ""


def grouping_key(network: nn.Module, split: Split) -> int:
    """Return a number that must be the same for all learners of a fit.

    Batches of unequal sizes are padded, and the padding has no weight in the loss. BatchNorm in
    train mode would still see it, so there all learners need the same number of examples.
    """
    return len(split) if normalizes_batches(network) else 0


def fit_batched(
    network: nn.Module,
    stack: Stack,
    learners: Sequence[Learner],
    settings: FitSettings,
    *,
    trained: Collection[str],
    kept: Collection[str],
    device: torch.device,
    penalty: Penalty | None = None,
    exchanged: Collection[str] = (),
) -> tuple[list[FitReport], list[str]]:
    """Train m models at once, each as `fit` trains it: the same batches, steps and arithmetic.

    Parameters
    ----------
    network : nn.Module
        The architecture, in the modes of the fit. All models share its tensors that are not in
        ``stack``.
    stack : dict of str to Tensor
        Parameters, and the buffers that change, by the network's names: shape ``(m, ...)``, on
        ``device``. Trained in place.
    learners : sequence of Learner
        m of them, all with the same `grouping_key`.
    settings : FitSettings
        How to train, the same for all, such that `why_not_batched` has no objection.
    trained : collection of str
        The parameters to update: names of ``stack``.
    kept : collection of str
        Those whose optimizer state is loaded from earlier fits, and saved.
    device : torch.device
        Where the stack is.
    penalty : callable, optional
        A scalar added to the loss of every step, of one model's parameters named in ``exchanged``
        and of what these were when the fit began. A `Proximal` gives its own gradient.
    exchanged : collection of str
        Names for the penalty; those that are not trained are left out.

    Returns
    -------
    tuple of two lists
        For each learner what was done, and the text of `Diverged` if its model must not be used,
        else "".
    """
    planned = [planned_steps(len(learner.split), settings.config) for learner in learners]
    # By falling number of steps, so that those still training are always the first of the stack.
    order = sorted(range(len(learners)), key=lambda i: -planned[i])
    steps = [planned[i] for i in order]
    data = _Examples([learners[i] for i in order], settings, device)
    sorted_already = order == sorted(order)
    ordered = stack if sorted_already else {n: tensor[order] for n, tensor in stack.items()}
    names = [name for name in ordered if name in set(trained)]
    before = [learners[i].optimizer_state for i in order]
    stepper = _stepper(
        {n: ordered[n] for n in names}, before, settings, max(steps, default=0), kept
    )
    pulled = [name for name in names if name in set(exchanged)] if penalty else []
    begun = {name: ordered[name].clone() for name in pulled}
    proximal = penalty if pulled and isinstance(penalty, Proximal) else None
    traced = penalty if pulled and proximal is None else None
    loss_of = vmap(_loss_of(network, learners[0].loss, traced))
    losses = torch.zeros(max(steps, default=0), len(learners), dtype=torch.float64)
    seen = np.zeros(len(learners), dtype=np.int64)
    for step in range(len(losses)):
        active = sum(count > step for count in steps)
        inputs, labels, shares, sizes = data.batch(step, active)
        now = {name: tensor[:active].detach() for name, tensor in ordered.items()}
        for name in names:
            now[name].requires_grad_()
        start = {name: tensor[:active] for name, tensor in begun.items()}
        values = loss_of(now, inputs, labels, shares, data.weights[:active], start)
        wanted = [now[name] for name in names]
        # No model's loss depends on another's parameters: the gradient of the sum has each one's own.
        given = torch.autograd.grad(values.sum(), wanted, allow_unused=True)
        gradients = {n: g for n, g in zip(names, given, strict=True) if g is not None}
        values = values.detach()
        if proximal is not None:
            now_pulled = {name: now[name] for name in pulled}
            gradients, added = proximal.add_to(gradients, now_pulled, start)
            values = values + added
        stepper.step(gradients, _clipping(gradients, settings.config.clip))
        losses[step, :active] = values.double().cpu() * torch.from_numpy(sizes)
        seen[:active] += sizes
    stepper.save(steps, kept)
    back = np.argsort(order)
    if not sorted_already:
        for name, tensor in stack.items():
            tensor.copy_(ordered[name][torch.from_numpy(back)])
    return _outcomes([losses[: steps[place], place] for place in back], seen[back])


def run_batched(
    network: nn.Module,
    stack: Stack,
    splits: Sequence[Split],
    *,
    batch_size: int,
    device: torch.device,
) -> list[Tensor]:
    """Return each model's outputs for its own split: float32 on the CPU, ``(n_i, outputs)``.

    ``network`` is in eval mode, and all models share its tensors that are not in ``stack``. Each
    model gets up to ``batch_size`` examples at once; shorter splits are padded.
    """
    longest = max(len(split) for split in splits)
    parts: list[Tensor] = []
    with torch.no_grad():
        for start in range(0, longest, batch_size):
            rows = np.arange(start, min(start + batch_size, longest))
            inputs = torch.stack(
                [split.inputs.batch(np.minimum(rows, len(split) - 1)) for split in splits]
            ).to(device)
            if stack:  # vmap needs at least one stacked tensor
                outputs = vmap(_outputs_of(network))(stack, inputs)
            else:
                outputs = network(inputs.flatten(0, 1)).unflatten(0, inputs.shape[:2])
            parts.append(outputs.float().cpu())
    whole = torch.cat(parts, dim=1)
    return [whole[i, : len(split)] for i, split in enumerate(splits)]


def _outputs_of(network: nn.Module):  # type: ignore[no-untyped-def]
    def outputs(tensors: Stack, inputs: Tensor) -> Tensor:
        return functional_call(network, tensors, (inputs,))  # type: ignore[no-any-return]

    return outputs


def _loss_of(network: nn.Module, kind: TaskLoss, penalty: Penalty | None):  # type: ignore[no-untyped-def]
    def loss(
        tensors: Stack, inputs: Tensor, labels: Tensor, shares: Tensor, weight: Tensor, begun: Stack
    ) -> Tensor:
        outputs = functional_call(network, tensors, (inputs,))
        value = (kind.each(outputs, labels, weight) * shares).sum()
        if penalty is None:
            return value
        return value + penalty({name: tensors[name] for name in begun}, begun)

    return loss


def _outcomes(
    losses: Sequence[Tensor], seen: NDArray[np.int64]
) -> tuple[list[FitReport], list[str]]:
    """Return what was done by the sum of losses of each step, and why a model must not be used."""
    reports = [
        FitReport(len(mine), len(mine), float(mine.sum()) / max(int(examples), 1))
        for mine, examples in zip(losses, seen, strict=True)
    ]
    return reports, [_divergence(mine, len(mine)) for mine in losses]


def _stepper(
    trains: Stack,
    before: Sequence[OptimizerState],
    settings: FitSettings,
    steps: int,
    kept: Collection[str],
) -> StackedOptimizer:
    """Return the optimizer of so many steps; without momentum where there is a single one."""
    once = steps <= 1 and not any(before) and not trains.keys() & {*kept}
    settings = _without_momentum(settings) if once else settings
    return STACKED[settings.config.optimizer.name](trains, before, settings)


def _without_momentum(settings: FitSettings) -> FitSettings:
    """Return the settings of a single step that nothing follows: its momentum is its gradient."""
    optimizer = replace(settings.config.optimizer, momentum=0.0)
    return replace(settings, config=replace(settings.config, optimizer=optimizer))


def _clipping(gradients: Mapping[str, Tensor], most: float | None) -> Tensor | None:
    """Return the factor that clips each learner's gradients, ``(m,)``, or None."""
    if most is None or not gradients:
        return None
    norms = [torch.linalg.vector_norm(g.flatten(1), dim=1) for g in gradients.values()]
    # As torch's clip_grad_norm_ computes it, the 1e-6 included.
    total = torch.linalg.vector_norm(torch.stack(norms), dim=0)
    factor: Tensor = most / (total + 1e-6)
    return factor.clamp(max=1.0)


def _divergence(losses: Tensor, planned: int) -> str:
    """Return at which step the loss stopped being finite, in the words of `fit`, or ""."""
    wrong = (~torch.isfinite(losses)).nonzero()
    if not len(wrong):
        return ""
    step = int(wrong[0])
    value = math.nan if losses[step].isnan() else float(losses[step])
    return (
        f"the loss became {value} at step {step + 1} of {planned}; "
        "lower train.optimizer.lr or set train.clip"
    )


class _Examples:
    """The training examples of all learners in one tensor, and the batches of each learner."""

    def __init__(
        self, learners: Sequence[Learner], settings: FitSettings, device: torch.device
    ) -> None:
        splits = [learner.split for learner in learners]
        self.inputs = torch.cat([s.inputs.batch(np.arange(len(s))) for s in splits]).to(device)
        labels = np.concatenate([split.labels for split in splits])
        self.labels = torch.from_numpy(labels).to(device)
        first = np.cumsum([0, *map(len, splits)])[:-1]
        self.turns = [
            [indices + start for indices in batches(len(s), settings.config, learner.generator)]
            for s, learner, start in zip(splits, learners, first, strict=True)
        ]
        masses = [learner.loss.masses(learner.split.labels) for learner in learners]
        self.masses = np.concatenate(masses)
        weights = [learner.loss.own_weight() for learner in learners]
        self.weights = torch.stack(weights).to(device)
        self.device = device

    def batch(self, step: int, active: int) -> tuple[Tensor, Tensor, Tensor, NDArray[np.int64]]:
        """Return the batches of the first ``active`` learners in ``step``.

        Returns
        -------
        tuple
            Inputs ``(active, b, ...)`` and labels ``(active, b, ...)``, padded with a learner's own
            first example. Each example's share of the mean of its batch, float32 ``(active, b)``,
            0 for padding. How many examples are real, int64 ``(active,)``.
        """
        turns = [self.turns[i][step] for i in range(active)]
        sizes = np.array([len(turn) for turn in turns], dtype=np.int64)
        rows = np.empty((active, int(sizes.max())), dtype=np.int64)
        for i, turn in enumerate(turns):
            rows[i, : len(turn)] = turn
            rows[i, len(turn) :] = turn[0]
        real = np.arange(rows.shape[1]) < sizes[:, None]
        masses = np.where(real, self.masses[rows], np.float32(0))
        total = masses.sum(axis=1, keepdims=True, dtype=np.float32)
        shares = masses / np.where(total > 0, total, np.float32(1))  # 0: nothing there is known
        chosen = torch.from_numpy(rows).to(self.device)
        weights = torch.from_numpy(shares).to(self.device)
        return self.inputs[chosen], self.labels[chosen], weights, sizes
