"""The training loop: a network, examples by index, and a loss to minimize."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from fedstrata.protocol.plan import FitConfig
from fedstrata.support.registry import find
from models.training.data import Split

Loss = Callable[[Any, Tensor], Tensor]  # of what the network gives, and the labels
OptimizerState = MutableMapping[str, dict[str, Tensor]]
OPTIMIZERS: Mapping[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}


@dataclass(frozen=True)
class FitSettings:
    """How to train now: what is configured, and what depends on the round and the machine.

    Parameters
    ----------
    config : FitConfig
        What is configured; see conf/train/default.yaml.
    lr_factor : float
        The configured learning rate is multiplied with this; it is the schedule's.
    autocast : bool
        Train in bfloat16 autocast.
    micro_batches : int
        Into how many parts each batch is cut to go through the network, where memory is short.
        The gradients of a step add up to those of the whole batch. Only BatchNorm normalizes each
        part by its own statistics, and so no part has a single example there.
    """

    config: FitConfig
    lr_factor: float = 1.0
    autocast: bool = False
    micro_batches: int = 1

    @property
    def lr(self) -> float:
        """The learning rate of every step."""
        return self.config.optimizer.lr * self.lr_factor

    def for_epochs(self, epochs: int) -> FitSettings:
        """Return these settings with ``epochs`` instead of the configured epochs or steps."""
        return replace(self, config=replace(self.config, epochs=epochs, steps=None))


@dataclass(frozen=True)
class FitReport:
    """What a fit did: steps done and planned, and the mean loss over the examples seen."""

    steps: int
    planned: int
    loss: float


class Diverged(ArithmeticError):
    """The loss became infinite or NaN."""


def planned_steps(examples: int, config: FitConfig) -> int:
    """Return the number of optimizer steps that a fit over ``examples`` will take."""
    if config.steps is not None:
        return config.steps
    assert config.epochs is not None
    return config.epochs * len(_cut_into_batches(np.arange(examples), config.batch_size))


def batches(
    examples: int, config: FitConfig, generator: np.random.Generator
) -> Iterator[NDArray[np.int64]]:
    """Yield the example indices of each step, reshuffled with ``generator`` for each pass."""
    left = planned_steps(examples, config)
    while left > 0:
        for indices in _cut_into_batches(generator.permutation(examples), config.batch_size)[:left]:
            left -= 1
            yield indices


def fit(
    network: nn.Module,
    split: Split,
    settings: FitSettings,
    *,
    trained: Mapping[str, nn.Parameter],
    generator: np.random.Generator,
    device: torch.device,
    loss: Loss | None = None,
    penalty: Callable[[], Tensor] | None = None,
    after_step: Callable[[], None] | None = None,
    clipped: Sequence[Sequence[nn.Parameter]] | None = None,
    optimizer_state: OptimizerState | None = None,
    max_steps: int | None = None,
) -> FitReport:
    """Train ``network`` in place on ``split``; modes (train, eval) are the caller's.

    Parameters
    ----------
    network : nn.Module
        From a batch of inputs to outputs ``(b, outputs)``, or to whatever ``loss`` takes; already
        on ``device``.
    split : Split
        Inputs and what is to be predicted.
    settings : FitSettings
        How to train.
    trained : mapping of str to nn.Parameter
        The parameters to update, by name; all others stay as they are.
    generator : numpy.random.Generator
        Order of the examples and augmentation; the caller seeds it.
    device : torch.device
        Where the network is.
    loss : callable, optional
        From outputs and labels to a scalar; cross-entropy when omitted. It is a plain mean over
        the examples, or has a ``mass`` as a `TaskLoss` does.
    penalty : callable, optional
        A scalar added to the loss of every step, such as the proximal term of FedProx.
    after_step : callable, optional
        Called after every step, such as to keep a parameter within its bounds.
    clipped : sequence of sequences of nn.Parameter, optional
        Sets of parameters whose gradients are clipped each by itself; all together when omitted.
    optimizer_state : mapping, optional
        State of earlier fits by parameter name, loaded where it fits and replaced by the new.
    max_steps : int, optional
        Stop after this many steps, for a site that can do only part of the work.

    Returns
    -------
    FitReport
        Steps done and planned, mean loss.

    Raises
    ------
    Diverged
        When the loss is not finite.
    """
    parameters = dict(trained)
    optimizer = make_optimizer(parameters, settings)
    _load_state(optimizer, parameters, optimizer_state)
    objective = loss or functional.cross_entropy
    planned = planned_steps(len(split), settings.config)
    mass: Callable[[Tensor], float] = getattr(objective, "mass", len)
    least = 2 if normalizes_batches(network) else 1
    total, seen, done = 0.0, 0, 0
    for indices in batches(len(split), settings.config, generator):
        if max_steps is not None and done >= max_steps:
            break
        # None, not zero: SGD with momentum or weight decay would also move parameters without gradient.
        # Not by zero_grad, whose hooks for profilers take longer than a small head.
        for parameter in parameters.values():
            parameter.grad = None
        value = 0.0
        extra = penalty
        for inputs, labels, share in _micro_batches(
            split, indices, settings, least, generator, device, mass
        ):
            with _precision(device, settings):
                part = objective(network(inputs), labels)
            if share != 1.0:
                part = part * share
            if extra is not None:
                part, extra = part + extra(), None  # once a step, however many micro-batches
            value += part.item()
            # Before backward and step, so that the parameters are still those of the last good step.
            if not math.isfinite(value):
                raise Diverged(
                    f"the loss became {value} at step {done + 1} of {planned}; "
                    "lower train.optimizer.lr or set train.clip"
                )
            part.backward()  # type: ignore[no-untyped-call]
        if settings.config.clip is not None:
            for together in clipped or [list(parameters.values())]:
                nn.utils.clip_grad_norm_(together, settings.config.clip)
        optimizer.step()
        if after_step is not None:
            after_step()
        total += value * len(indices)
        seen += len(indices)
        done += 1
    _save_state(optimizer, parameters, optimizer_state)
    return FitReport(done, planned, total / max(seen, 1))


def make_optimizer(
    trained: Mapping[str, nn.Parameter], settings: FitSettings
) -> torch.optim.Optimizer:
    """Return the configured optimizer over ``trained``; UserError for one that does not exist."""
    chosen = settings.config.optimizer
    make = find("train.optimizer.name", chosen.name, OPTIMIZERS)
    own = {"momentum": chosen.momentum} if chosen.name == "sgd" else {}
    return make(list(trained.values()), lr=settings.lr, weight_decay=chosen.weight_decay, **own)


def schedule_factor(schedule: str, round_number: int, rounds: int) -> float:
    """Return the factor on the learning rate in round ``round_number``, counted from 1.

    ``constant`` is 1. ``cosine`` falls from 1 in round 1 towards 0 after the last, in one cycle over
    the rounds (Loshchilov and Hutter 2017, eq. 5).
    """
    if schedule == "constant":
        return 1.0
    progress = min(max(round_number - 1, 0) / max(rounds, 1), 1.0)
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def augmented(inputs: Tensor, augment: str, generator: np.random.Generator) -> Tensor:
    """Return ``inputs`` flipped left-right at random, and for ``flip_crop`` shifted by up to 1/8.

    ``inputs`` has shape ``(b, c, h, w)``; vectors ``(b, d)`` are returned unchanged. The random
    numbers are numpy's, drawn on the CPU: a CPU and a GPU augment alike.
    """
    if augment == "none" or inputs.dim() != 4:
        return inputs
    mirrored = torch.from_numpy(generator.random(len(inputs)) < 0.5).to(inputs.device)
    inputs = torch.where(mirrored[:, None, None, None], inputs.flip(3), inputs)
    if augment == "flip_crop":
        room = max(inputs.shape[-1] // 8, 1)
        padded = functional.pad(inputs, (room,) * 4, mode="reflect")
        top, left = generator.integers(0, 2 * room + 1, size=2)
        inputs = padded[..., top : top + inputs.shape[-2], left : left + inputs.shape[-1]]
    return inputs.contiguous()


def _cut_into_batches(order: NDArray[np.int64], batch_size: int) -> list[NDArray[np.int64]]:
    """Cut one pass into batches; a last batch of one example joins the one before it.

    BatchNorm has no variance of a single example, and raises in train mode.
    """
    cuts = list(range(batch_size, len(order), batch_size))
    if cuts and len(order) - cuts[-1] == 1:
        cuts.pop()
    return np.split(order, cuts)


def _precision(device: torch.device, settings: FitSettings) -> AbstractContextManager[object]:
    # Entering an autocast that is off takes as long as a small layer.
    return torch.autocast(device.type, torch.bfloat16) if settings.autocast else nullcontext()


def _micro_batches(
    split: Split,
    indices: NDArray[np.int64],
    settings: FitSettings,
    least: int,
    generator: np.random.Generator,
    device: torch.device,
    mass: Callable[[Tensor], float],
) -> Iterator[tuple[Tensor, Tensor, float]]:
    """Yield a batch in micro-batches on the device: inputs, labels, and the share of the batch's mean.

    No micro-batch has fewer than ``least`` examples.
    """
    inputs, labels = split.inputs.batch(indices), torch.from_numpy(split.labels[indices])
    count = min(settings.micro_batches, len(indices) // least)
    if count <= 1:
        inputs, labels = _on_device(inputs, labels, device)
        yield augmented(inputs, settings.config.augment, generator), labels, 1.0
        return
    # The batch is augmented as a whole: the same random numbers, however it is cut.
    inputs = augmented(inputs, settings.config.augment, generator)
    whole = mass(labels) or 1.0  # nothing of the batch is known: no part has a share
    for rows in np.array_split(np.arange(len(indices)), count):
        part = slice(rows[0], rows[-1] + 1)
        share = mass(labels[part]) / whole
        yield *_on_device(inputs[part], labels[part], device), share


def normalizes_batches(network: nn.Module) -> bool:
    """Return whether a BatchNorm of ``network`` is in train mode: examples of a batch then mix."""
    norm = nn.modules.batchnorm._BatchNorm
    return any(isinstance(module, norm) and module.training for module in network.modules())


def _on_device(inputs: Tensor, labels: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    if device.type != "cuda":
        return inputs.to(device), labels.to(device)
    if not inputs.is_cuda:
        # Only from pinned memory does a copy run beside the computation.
        inputs = inputs.pin_memory().to(device, non_blocking=True)
    if inputs.dim() == 4:
        # The layout that cuDNN's convolutions for tensor cores work on: no transposing in each.
        inputs = inputs.contiguous(memory_format=torch.channels_last)
    return inputs, labels.pin_memory().to(device, non_blocking=True)


def _load_state(
    optimizer: torch.optim.Optimizer,
    trained: Mapping[str, nn.Parameter],
    saved: OptimizerState | None,
) -> None:
    for name, parameter in trained.items():
        if saved is not None and name in saved:
            optimizer.state[parameter] = {
                # Adam counts its steps on the CPU: on a GPU it would wait for the number each time.
                key: value.clone().to("cpu" if key == "step" else parameter.device)
                for key, value in saved[name].items()
            }


def _save_state(
    optimizer: torch.optim.Optimizer,
    trained: Mapping[str, nn.Parameter],
    saved: OptimizerState | None,
) -> None:
    if saved is None:
        return
    for name, parameter in trained.items():
        state = optimizer.state.get(parameter, {})
        tensors = {k: v.detach().cpu().clone() for k, v in state.items() if torch.is_tensor(v)}
        if tensors:
            saved[name] = tensors


def seeded(seed: int) -> np.random.Generator:
    """Seed torch's global generator, which Dropout draws from, and return one of numpy's."""
    torch.manual_seed(seed)
    return np.random.default_rng(seed)


def parameters_of(module: nn.Module, names: Iterable[str]) -> dict[str, nn.Parameter]:
    """Return the parameters of ``module`` whose names are in ``names``; buffers are left out."""
    wanted = set(names)
    return {name: p for name, p in module.named_parameters() if name in wanted}
