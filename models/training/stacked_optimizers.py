"""Steps of many small models of one architecture at once, with the arithmetic of torch's optimizers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.adamw import adamw

from models.training.loop import FitSettings, OptimizerState

# Numbers that a step works on at a time: three float32 arrays of as many fit in a cache.
BLOCK = 1 << 16
Stack = dict[str, Tensor]  # tensors of m models by name, the models along the first axis


class StackedOptimizer(ABC):
    """An optimizer over stacked parameters.

    Parameters
    ----------
    stack : dict of str to Tensor
        The parameters, ``(m, ...)``, which are changed in place.
    before : sequence of mapping
        Of each model the state of earlier fits by parameter name, as torch's optimizer saves it.
    settings : FitSettings
        Learning rate, weight decay and the rest.

    Attributes
    ----------
    buffers : tuple of str
        What torch's optimizer calls the tensors that it keeps of each parameter.
    """

    buffers: ClassVar[tuple[str, ...]]

    def __init__(
        self, stack: Stack, before: Sequence[OptimizerState], settings: FitSettings
    ) -> None:
        self.stack, self.before = stack, before
        self.lr, self.config = settings.lr, settings.config.optimizer
        # A new model starts at zero; SGD's momentum * 0 + gradient is its first gradient.
        self.kept = {
            buffer: {name: self._of_all(name, buffer) for name in stack} for buffer in self._used()
        }
        self.touched: set[str] = set()

    def _used(self) -> tuple[str, ...]:
        return self.buffers

    def _of_all(self, name: str, buffer: str) -> Tensor:
        whole = torch.zeros_like(self.stack[name])
        for i, state in enumerate(self.before):
            if (saved := state.get(name, {}).get(buffer)) is not None:
                whole[i] = saved
        return whole

    @torch.no_grad()
    def step(self, gradients: Mapping[str, Tensor], clipping: Tensor | None) -> None:
        """Update the parameters of the first models; each gradient has shape ``(active, ...)``.

        The gradients are the optimizer's own from then on.
        As torch's optimizer does, operation by operation. A few models at a time, so that their
        numbers stay in the processor's cache from one operation to the next.
        """
        self.touched |= gradients.keys()
        for name, gradient in gradients.items():
            self._count(name, len(gradient))
            for rows in row_blocks(gradient):
                change = gradient[rows]
                if clipping is not None:
                    change = change * over(clipping[rows], change)
                self._step_rows(name, rows, change)

    def _count(self, name: str, active: int) -> None:
        """Note that the first models take a step of a parameter."""
        del name, active

    @abstractmethod
    def _step_rows(self, name: str, rows: slice, change: Tensor) -> None:
        """Update a parameter of some models along ``change``, their gradients."""

    def save(self, steps: Sequence[int], kept: Collection[str]) -> None:
        """Put the state of each model that took a step into its own of ``before``, for ``kept``."""
        for i, state in enumerate(self.before):
            for name in self.touched & set(kept) if steps[i] else ():
                if saved := self._state(name, i):
                    state[name] = saved

    def _state(self, name: str, i: int) -> dict[str, Tensor]:
        return {buffer: of_all[name][i].cpu().clone() for buffer, of_all in self.kept.items()}


class StackedSGD(StackedOptimizer):
    """`torch.optim.SGD`, with momentum and weight decay."""

    buffers: ClassVar[tuple[str, ...]] = ("momentum_buffer",)

    def __init__(
        self, stack: Stack, before: Sequence[OptimizerState], settings: FitSettings
    ) -> None:
        # Those whose momentum begins: as torch's optimizer has it, it is the first gradient.
        self._begins = {
            n for n in stack if not any("momentum_buffer" in s.get(n, {}) for s in before)
        }
        super().__init__(stack, before, settings)

    def _used(self) -> tuple[str, ...]:
        return self.buffers if self.config.momentum else ()

    def _of_all(self, name: str, buffer: str) -> Tensor:
        # One that begins gets its memory with the first gradient.
        return torch.empty(0) if name in self._begins else super()._of_all(name, buffer)

    def step(self, gradients: Mapping[str, Tensor], clipping: Tensor | None) -> None:
        """Update the parameters of the first models; a first gradient may become the momentum."""
        begin = self._begins & gradients.keys()
        if self.kept:
            self.kept["momentum_buffer"] |= self._begun({n: gradients[n] for n in begin})
        super().step(gradients, clipping)
        self._begins -= begin

    def _begun(self, gradients: Mapping[str, Tensor]) -> Stack:
        """Return memory for the momenta that begin: the gradients' own where nobody else has it."""
        apart = len({gradient.data_ptr() for gradient in gradients.values()}) == len(gradients)
        found: Stack = {}
        for name, gradient in gradients.items():
            whole = self.stack[name]
            if apart and gradient.is_contiguous() and gradient.shape == whole.shape:
                found[name] = gradient
            else:
                found[name] = torch.zeros_like(whole)
        return found

    def _step_rows(self, name: str, rows: slice, change: Tensor) -> None:
        parameter = self.stack[name][rows]
        if self.config.weight_decay:
            change = change.add(parameter, alpha=self.config.weight_decay)
        if self.kept:
            buffer = self.kept["momentum_buffer"][name][rows]
            if name not in self._begins:
                buffer.mul_(self.config.momentum).add_(change)
            elif buffer.data_ptr() != change.data_ptr():
                buffer.copy_(change)
            change = buffer
        parameter.add_(change, alpha=-self.lr)


class StackedAdam(StackedOptimizer):
    """`torch.optim.Adam` with its usual betas (Kingma and Ba 2015, algorithm 1).

    A gradient is divided by its own size. So where it is all but zero, rounding decides which way a
    step goes, and two ways to compute the same model can part there by the whole learning rate.
    """

    buffers: ClassVar[tuple[str, ...]] = ("exp_avg", "exp_avg_sq")
    fused: ClassVar[Callable[..., None]] = staticmethod(adam)
    betas: ClassVar[tuple[float, float]] = (0.9, 0.999)
    eps: ClassVar[float] = 1e-8

    def __init__(
        self, stack: Stack, before: Sequence[OptimizerState], settings: FitSettings
    ) -> None:
        super().__init__(stack, before, settings)
        # On the CPU, as torch's: to compare them on a GPU, it would wait for the GPU in every step.
        self.steps = {
            name: torch.tensor(
                [float(state.get(name, {}).get("step", 0.0)) for state in before],
                dtype=torch.float64,
            )
            for name in stack
        }

    def _count(self, name: str, active: int) -> None:
        self.steps[name][:active] += 1

    @torch.no_grad()
    def step(self, gradients: Mapping[str, Tensor], clipping: Tensor | None) -> None:
        """Update the parameters of the first models, in one pass where all are at the same step."""
        apart = [name for name in gradients if not self._is_one_pass(name, len(gradients[name]))]
        for name in gradients.keys() - set(apart):
            self._fused_step(name, gradients[name], clipping)
        self.touched |= gradients.keys()
        super().step({name: gradients[name] for name in apart}, clipping)

    def _is_one_pass(self, name: str, active: int) -> bool:
        """Return whether torch's fused step gives the right numbers: it has one count for all."""
        steps, contiguous = self.steps[name][:active], self.stack[name].is_contiguous()
        return contiguous and bool((steps == steps[0]).all())

    def _fused_step(self, name: str, gradient: Tensor, clipping: Tensor | None) -> None:
        active = slice(len(gradient))
        if clipping is not None:
            gradient = gradient * over(clipping, gradient)
        gradient = (
            gradient.contiguous()
        )  # it takes numbers as they lie in memory, whatever the strides
        mean, square = (self.kept[buffer][name][active] for buffer in self.buffers)
        self.fused(
            [self.stack[name][active]],
            [gradient],
            [mean],
            [square],
            [],
            [self.steps[name][0].float().to(gradient.device)],  # which it counts up itself
            fused=True,
            foreach=False,
            amsgrad=False,
            beta1=self.betas[0],
            beta2=self.betas[1],
            lr=self.lr,
            weight_decay=self.config.weight_decay,
            eps=self.eps,
            maximize=False,
        )
        self._count(name, len(gradient))

    def _decayed(self, parameter: Tensor, change: Tensor) -> Tensor:
        """Return the gradient with the weight decay in it, or decay the parameter."""
        return change.add(parameter, alpha=self.config.weight_decay)

    def _step_rows(self, name: str, rows: slice, change: Tensor) -> None:
        parameter = self.stack[name][rows]
        mean, square = (self.kept[buffer][name][rows] for buffer in self.buffers)
        if self.config.weight_decay:
            change = self._decayed(parameter, change)
        first, second = self.betas
        mean.lerp_(change, 1 - first)
        square.mul_(second).addcmul_(change, change, value=1 - second)
        counted = self.steps[name][rows]
        size = over(self.lr / (1 - first**counted), change)
        root = over((1 - second**counted).sqrt(), change)
        parameter.sub_(size * mean / (square.sqrt() / root).add_(self.eps))

    def _state(self, name: str, i: int) -> dict[str, Tensor]:
        return {"step": self.steps[name][i].float().cpu().clone(), **super()._state(name, i)}


class StackedAdamW(StackedAdam):
    """`torch.optim.AdamW`: Adam with the weight decay apart (Loshchilov and Hutter 2019)."""

    fused: ClassVar[Callable[..., None]] = staticmethod(adamw)

    def _decayed(self, parameter: Tensor, change: Tensor) -> Tensor:
        parameter.mul_(1 - self.lr * self.config.weight_decay)
        return change


STACKED: Mapping[str, type[StackedOptimizer]] = {
    "sgd": StackedSGD,
    "adam": StackedAdam,
    "adamw": StackedAdamW,
}


def row_blocks(stacked: Tensor) -> Iterator[slice]:
    """Yield a few models at a time, so that their numbers stay in the processor's cache.

    On a GPU it is all of them: there a step of few takes as long as one of many.
    """
    models, step = len(stacked), max(BLOCK // max(stacked[0].numel(), 1), 1)
    if stacked.is_cuda:
        step = models
    for start in range(0, models, step):
        yield slice(start, min(start + step, models))


def over(factors: Tensor, like: Tensor) -> Tensor:
    """Return a factor for each model, ``(m,)``, in the dtype and for all dimensions of ``like``."""
    return factors.to(like.device, like.dtype).view(-1, *[1] * (like.dim() - 1))
