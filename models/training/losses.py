"""What training minimizes, by kind of task: the mean over a batch, and over what it is the mean."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from models.training.data import Labels


class TaskLoss(Protocol):
    """The loss of a task at one site.

    A batch is also computed in parts, and many sites' batches at once. So besides the mean of a
    batch there are the losses of its examples, and their masses: the mean of a batch is the sum of
    losses times masses over the sum of the masses.
    """

    def __call__(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the mean over the batch, a scalar."""
        ...

    def mass(self, labels: Tensor) -> float:
        """Return the sum of the masses of a batch."""
        ...

    def masses(self, labels: Labels) -> NDArray[np.float32]:
        """Return the mass of each example, shape ``(n,)``."""
        ...

    def each(self, outputs: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
        """Return the loss of each example, shape ``(b,)``; ``weight`` is a site's `own_weight`."""
        ...

    def own_weight(self) -> Tensor:
        """Return what differs between the losses of sites of one task, of one shape for all."""
        ...


@dataclass(frozen=True)
class Extended:
    """A loss over what a method's network gives, of which ``own`` is the site's part.

    Parameters
    ----------
    own : callable
        The site's loss: a batch in parts is weighted as for it.
    whole : callable
        From what the network gives and the labels to the mean over a batch, a scalar.
    """

    own: Callable[[Tensor, Tensor], Tensor]
    whole: Callable[[Any, Tensor], Tensor]

    def __call__(self, given: Any, labels: Tensor) -> Tensor:
        """Return the mean over the batch."""
        return self.whole(given, labels)

    def mass(self, labels: Tensor) -> float:
        """Return the sum of the masses of a batch, as the site's loss has them."""
        mass: Callable[[Tensor], float] = getattr(self.own, "mass", len)
        return mass(labels)


@dataclass(frozen=True)
class CrossEntropy:
    """Cross-entropy of classes, of which one holds.

    Parameters
    ----------
    weight : Tensor or None
        One per class, float32 of shape ``(classes,)``: the mean over a batch is weighted. None for
        the plain mean.
    """

    weight: Tensor | None = None

    def __call__(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the weighted mean over the batch, a scalar."""
        return functional.cross_entropy(outputs, labels, weight=self.weight)

    def mass(self, labels: Tensor) -> float:
        """Return the sum of the weights of ``labels``."""
        if self.weight is None:
            return len(labels)
        return float(self.weight[labels.to(self.weight.device)].double().sum())

    def masses(self, labels: Labels) -> NDArray[np.float32]:
        """Return the weight of each example's class."""
        if self.weight is None:
            return np.ones(len(labels), dtype=np.float32)
        chosen: NDArray[np.float32] = self.weight.cpu().numpy()[labels]
        return chosen.astype(np.float32)

    def each(self, outputs: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
        """Return the cross-entropy of each example; the weights are in the masses."""
        del weight
        # The bits of functional.cross_entropy, which under vmap imports sympy first.
        scores = functional.log_softmax(outputs, dim=1)
        return -scores.gather(1, labels.unsqueeze(1)).squeeze(1)

    def own_weight(self) -> Tensor:
        """Return nothing."""
        return torch.zeros(1)


class _OfKnown:
    """A mean over the known targets of a batch: NaN stands where one is not known."""

    def mass(self, labels: Tensor) -> float:
        """Return how many targets are known."""
        return float((~labels.isnan()).sum())

    def masses(self, labels: Labels) -> NDArray[np.float32]:
        """Return how many targets of each example are known."""
        known: NDArray[np.float32] = (~np.isnan(labels)).sum(axis=1).astype(np.float32)
        return known


@dataclass(frozen=True)
class BinaryCrossEntropy(_OfKnown):
    """Binary cross-entropy of labels of which several may hold, by sigmoid outputs.

    Parameters
    ----------
    weight : Tensor or None
        What an example in which a label holds counts, float32 of shape ``(labels,)``; None for 1.
    """

    weight: Tensor | None = None

    def __call__(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the mean over the known labels of the batch, a scalar; 0 where none is known."""
        outputs, known = outputs.float(), ~labels.isnan()
        if bool(known.all()):
            return functional.binary_cross_entropy_with_logits(
                outputs, labels, pos_weight=self.weight
            )
        return _mean_of_known(self._all(outputs, labels, self.weight), known)

    def each(self, outputs: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
        """Return the mean over each example's known labels."""
        return _mean_of_known(self._all(outputs.float(), labels, weight), ~labels.isnan(), dim=1)

    def own_weight(self) -> Tensor:
        """Return the weights; one number is as many ones."""
        return torch.ones(1) if self.weight is None else self.weight.cpu()

    @staticmethod
    def _all(outputs: Tensor, labels: Tensor, weight: Tensor | None) -> Tensor:
        return functional.binary_cross_entropy_with_logits(
            outputs, labels.nan_to_num(), pos_weight=weight, reduction="none"
        )


@dataclass(frozen=True)
class NumberLoss(_OfKnown):
    """Mean square or Huber error of numbers, standardized.

    Parameters
    ----------
    name : str
        ``mse`` or ``huber``; the latter is square up to one standard deviation, linear beyond.
    mean, std : tuple of float
        One per number: the network predicts ``(target - mean) / std``.
    """

    name: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the mean over the known numbers of the batch, a scalar; 0 where none is known."""
        return _mean_of_known(self._all(outputs, labels), ~labels.isnan())

    def each(self, outputs: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
        """Return the mean over each example's known numbers."""
        del weight
        return _mean_of_known(self._all(outputs, labels), ~labels.isnan(), dim=1)

    def own_weight(self) -> Tensor:
        """Return nothing."""
        return torch.zeros(1)

    def _all(self, outputs: Tensor, labels: Tensor) -> Tensor:
        if outputs.dtype != torch.float64:
            outputs = outputs.float()  # from bfloat16
        mean = torch.tensor(self.mean, dtype=outputs.dtype, device=labels.device)
        std = torch.tensor(self.std, dtype=outputs.dtype, device=labels.device)
        # An unknown number is replaced before the error: NaN times zero is NaN, in gradients too.
        wanted = ((labels - mean) / std).nan_to_num()
        error = functional.huber_loss if self.name == "huber" else functional.mse_loss
        return error(outputs, wanted, reduction="none")


def class_weights(labels: NDArray[np.int64], classes: int) -> Tensor:
    """Return n / (classes * n_c) per class, float32 of shape ``(classes,)``; 0 for an absent class."""
    counts = np.bincount(labels, minlength=classes)
    weights = np.divide(len(labels), classes * counts, where=counts > 0, out=np.zeros(classes))
    return torch.tensor(weights, dtype=torch.float32)


def label_weights(labels: Labels) -> Tensor:
    """Return negatives / positives per label, float32 ``(labels,)``; 1 where one of them is absent."""
    holds, holds_not = (labels == 1).sum(axis=0), (labels == 0).sum(axis=0)
    both = (holds > 0) & (holds_not > 0)
    weights = np.divide(holds_not, holds, where=both, out=np.ones(labels.shape[1]))
    return torch.tensor(weights, dtype=torch.float32)


def _mean_of_known(values: Tensor, known: Tensor, dim: int | None = None) -> Tensor:
    kept = torch.where(known, values, torch.zeros_like(values))
    total = kept.sum() if dim is None else kept.sum(dim)
    count = known.sum() if dim is None else known.sum(dim)
    return total / count.clamp(min=1)
