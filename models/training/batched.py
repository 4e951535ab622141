"""Many small models of one architecture trained and run at once: parameters stacked, torch.func."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional

from models.freezing import RANDOM
from models.training.data import Split
from models.training.loop import FitReport, FitSettings, OptimizerState, batches, planned_steps

BLOCK = 1 << 16  # numbers that are stepped at a time
MOMENTUM = "momentum_buffer"  # as torch.optim.SGD calls it
Stack = dict[str, Tensor]  # tensors of m learners by name, the learners along the first axis


@dataclass
class Learner:
    """One of the models that are trained together.

    Parameters
    ----------
    split : Split
        Its training examples.
    generator : numpy.random.Generator
        Order of the examples; seeded as for `fit`.
    optimizer_state : mapping
        State of earlier fits by parameter name; replaced by the new.
    class_weights : Tensor or None
        float32, shape ``(classes,)``; None for the plain mean.
    """

    split: Split
    generator: np.random.Generator
    optimizer_state: OptimizerState
    class_weights: Tensor | None = None


def why_not_batched(network: nn.Module, settings: FitSettings) -> str:
    """Return why a fit of ``network``, in the modes it is in, cannot be stacked exactly, or ""."""
    config = settings.config
    if config.optimizer.name != "sgd":
        # Where a gradient is all but zero, the sign of its rounding decides: a whole step's length.
        return (
            f"train.optimizer.name={config.optimizer.name} makes steps of differences in rounding"
        )
    if settings.autocast:
        return "bfloat16 autocast"
    if config.augment != "none":
        return f"train.augment={config.augment}"
    if settings.micro_batches > 1:
        return "batches in micro_batches, for want of memory"
    for module in network.modules():
        if isinstance(module, RANDOM) and module.training:
            return f"{type(module).__name__}, which draws from each site's own random numbers"
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.momentum is None:
            return "BatchNorm with a cumulative mean"
    return ""


def grouping_key(network: nn.Module, split: Split) -> int:
    """Return a number that must be the same for all learners of a fit.

    Batches of unequal sizes are padded, and the padding is given no weight. BatchNorm in train mode
    would see it: there each learner needs as many examples as the others.
    """
    norm = nn.modules.batchnorm._BatchNorm
    mixes = any(isinstance(module, norm) and module.training for module in network.modules())
    return len(split) if mixes else 0


def fit_batched(
    network: nn.Module,
    stack: Stack,
    learners: Sequence[Learner],
    settings: FitSettings,
    *,
    trained: Collection[str],
    kept: Collection[str],
    device: torch.device,
) -> tuple[list[FitReport], list[str]]:
    """Train m models as `fit` trains each: the same batches, steps and arithmetic, all at once.

    Parameters
    ----------
    network : nn.Module
        The architecture, in the modes of the fit; its tensors that ``stack`` lacks are all models'.
    stack : dict of str to Tensor
        By the network's names, shape ``(m, ...)``, on ``device``: parameters, and the buffers that
        change. Trained in place.
    learners : sequence of Learner
        m of them, alike in `grouping_key`.
    settings : FitSettings
        How to train, the same for all; `why_not_batched` says what cannot be.
    trained : collection of str
        The parameters that are stepped: names of ``stack``.
    kept : collection of str
        Those whose optimiser state is taken up from earlier fits, and kept.
    device : torch.device
        Where the stack is.

    Returns
    -------
    tuple of two lists
        For each learner what was done, and why that is not to be used ("" where it is): the text
        of `Diverged`.
    """
    planned = [planned_steps(len(learner.split), settings.config) for learner in learners]
    order = sorted(range(len(learners)), key=lambda i: -planned[i])  # who is done falls off the end
    steps = [planned[i] for i in order]
    data = _Examples([learners[i] for i in order], settings, device)
    sorted_already = order == sorted(order)
    ordered = stack if sorted_already else {n: tensor[order] for n, tensor in stack.items()}
    names = [name for name in ordered if name in set(trained)]
    stepper = _Stepper({n: ordered[n] for n in names}, [learners[i] for i in order], settings)
    losses = torch.zeros(max(steps, default=0), len(learners), dtype=torch.float64)
    seen = np.zeros(len(learners), dtype=np.int64)
    for step in range(len(losses)):
        active = sum(count > step for count in steps)
        inputs, labels, shares, sizes = data.batch(step, active)
        now = {name: tensor[:active].detach() for name, tensor in ordered.items()}
        for name in names:
            now[name].requires_grad_()
        values = vmap(_loss_of(network))(now, inputs, labels, shares)
        wanted = [now[name] for name in names]
        given = torch.autograd.grad(values.sum(), wanted, allow_unused=True)
        gradients = {n: g for n, g in zip(names, given, strict=True) if g is not None}
        stepper.step(gradients, _clipping(gradients, settings.config.clip))
        losses[step, :active] = values.detach().double().cpu() * torch.from_numpy(sizes)
        seen[:active] += sizes
    stepper.save(steps, kept)
    back = np.argsort(order)
    if not sorted_already:
        for name, tensor in stack.items():
            tensor.copy_(ordered[name][torch.from_numpy(back)])
    reports: list[FitReport] = []
    problems: list[str] = []
    for place in back:
        mine = losses[: steps[place], place]
        total = float(mine.sum()) / max(int(seen[place]), 1)
        reports.append(FitReport(steps[place], steps[place], total))
        problems.append(_divergence(mine, steps[place]))
    return reports, problems


def run_batched(
    network: nn.Module,
    stack: Stack,
    splits: Sequence[Split],
    *,
    batch_size: int,
    device: torch.device,
) -> list[Tensor]:
    """Return each model's outputs for its own split: float32 on the CPU, ``(n_i, classes)``.

    ``network`` is in eval mode; its tensors that ``stack`` lacks are all models'. At most
    ``batch_size`` examples, and as many of the fullest split, go through each model at once.
    """
    longest = max(len(split) for split in splits)
    parts: list[Tensor] = []
    with torch.no_grad():
        for start in range(0, longest, batch_size):
            rows = np.arange(start, min(start + batch_size, longest))
            inputs = torch.stack(
                [split.inputs.batch(np.minimum(rows, len(split) - 1)) for split in splits]
            ).to(device)
            if stack:
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


def _loss_of(network: nn.Module):  # type: ignore[no-untyped-def]
    def loss(tensors: Stack, inputs: Tensor, labels: Tensor, shares: Tensor) -> Tensor:
        logits = functional_call(network, tensors, (inputs,))
        return (functional.cross_entropy(logits, labels, reduction="none") * shares).sum()

    return loss


def _clipping(gradients: Mapping[str, Tensor], most: float | None) -> Tensor | None:
    """Return what each learner's gradients are multiplied with, as torch clips them: ``(m,)``."""
    if most is None or not gradients:
        return None
    norms = [torch.linalg.vector_norm(g.flatten(1), dim=1) for g in gradients.values()]
    total = torch.linalg.vector_norm(torch.stack(norms), dim=0)
    factor: Tensor = most / (total + 1e-6)
    return factor.clamp(max=1.0)


def _divergence(losses: Tensor, planned: int) -> str:
    """Return in `fit`'s words at which step the loss stopped being a number, or ""."""
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
    """The training examples of all learners in one tensor, and whose turn is when."""

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
        self.masses = np.ones(len(labels), dtype=np.float32)
        self.weighted = learners[0].class_weights is not None
        if self.weighted:
            parts = []
            for learner in learners:
                assert learner.class_weights is not None
                parts.append(learner.class_weights.cpu().numpy()[learner.split.labels])
            self.masses = np.concatenate(parts).astype(np.float32)
        self.device = device

    def batch(self, step: int, active: int) -> tuple[Tensor, Tensor, Tensor, NDArray[np.int64]]:
        """Return what the first ``active`` learners train on in ``step``.

        Returns
        -------
        tuple
            Inputs ``(active, b, ...)`` and labels ``(active, b)``, filled up with a learner's own
            first example; float32 ``(active, b)``, each example's share of its batch's mean, 0 for
            the filling; and how many examples are real, int64 ``(active,)``.
        """
        turns = [self.turns[i][step] for i in range(active)]
        sizes = np.array([len(turn) for turn in turns], dtype=np.int64)
        rows = np.empty((active, int(sizes.max())), dtype=np.int64)
        for i, turn in enumerate(turns):
            rows[i, : len(turn)] = turn
            rows[i, len(turn) :] = turn[0]
        real = np.arange(rows.shape[1]) < sizes[:, None]
        masses = np.where(real, self.masses[rows], np.float32(0))
        shares = masses / masses.sum(axis=1, keepdims=True, dtype=np.float32)
        chosen = torch.from_numpy(rows).to(self.device)
        weights = torch.from_numpy(shares).to(self.device)
        return self.inputs[chosen], self.labels[chosen], weights, sizes


class _Stepper:
    """SGD on stacks: torch's own function, on those learners that still train."""

    def __init__(self, stack: Stack, learners: Sequence[Learner], settings: FitSettings) -> None:
        self.stack, self.learners = stack, learners
        self.lr, self.optimizer = settings.lr, settings.config.optimizer
        self.buffers = {n: self._restored(n) for n in stack} if self.optimizer.momentum else {}
        self.touched: set[str] = set()

    def _restored(self, name: str) -> Tensor:
        """Return the momentum of all learners; zeros, from which it starts, where it is new."""
        whole = torch.zeros_like(self.stack[name])
        for i, learner in enumerate(self.learners):
            if (before := learner.optimizer_state.get(name, {}).get(MOMENTUM)) is not None:
                whole[i] = before
        return whole

    @torch.no_grad()
    def step(self, gradients: Mapping[str, Tensor], clipping: Tensor | None) -> None:
        """Step the parameters of the learners that ``gradients`` has, in order: ``(active, ...)``.

        As `torch.optim.SGD` does, operation by operation; a few learners at a time, so that their
        numbers stay in the processor's cache from one operation to the next.
        """
        self.touched |= gradients.keys()
        for name, gradient in gradients.items():
            each = max(gradient[0].numel(), 1)
            for start in range(0, len(gradient), max(BLOCK // each, 1)):
                rows = slice(start, min(start + max(BLOCK // each, 1), len(gradient)))
                self._step_rows(name, rows, gradient[rows], clipping)

    def _step_rows(self, name: str, rows: slice, change: Tensor, clipping: Tensor | None) -> None:
        parameter = self.stack[name][rows]
        if clipping is not None:
            change = change * clipping[rows].view(-1, *[1] * (change.dim() - 1))
        if self.optimizer.weight_decay:
            change = change.add(parameter, alpha=self.optimizer.weight_decay)
        if self.buffers:
            change = self.buffers[name][rows].mul_(self.optimizer.momentum).add_(change)
        parameter.add_(change, alpha=-self.lr)

    def save(self, steps: Sequence[int], kept: Collection[str]) -> None:
        """Put each learner's momentum where it keeps it, if it did any step."""
        for i, learner in enumerate(self.learners):
            for name in self.touched & self.buffers.keys() & set(kept) if steps[i] else ():
                learner.optimizer_state[name] = {MOMENTUM: self.buffers[name][i].cpu().clone()}
