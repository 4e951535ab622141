"""What a task is trained and measured by, for each kind: its loss, its measures, its baseline."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedstrata.protocol.class_measures import ByClass
from fedstrata.protocol.measures import MEASURES
from fedstrata.protocol.task_kinds import CLASSES, LABELS, NUMBER, ONE_CLASS_EACH, TaskKind
from fedstrata.support.errors import UserError
from models.training import class_measures
from models.training.class_measures import Measured as Outputs
from models.training.data import Labels
from models.training.intervals import Interval, bootstrap_of_share
from models.training.label_metrics import auroc_interval, commoner_value_accuracy, label_metrics
from models.training.losses import (
    BinaryCrossEntropy,
    CrossEntropy,
    NumberLoss,
    TaskLoss,
    class_weights,
    label_weights,
)
from models.training.metrics import metrics
from models.training.number_metrics import errors_of_mean, mae_interval, number_metrics, or_none
from models.training.rankings import Numbers
from models.training.stacked_metrics import metrics_of_each

Measured = dict[str, float | None]


@dataclass(frozen=True)
class Objective(ABC):
    """What one kind of task is trained and measured by.

    Parameters
    ----------
    outputs : int
        How many the network has.
    kind : TaskKind
        What they mean.
    """

    outputs: int
    kind: TaskKind = ONE_CLASS_EACH

    @abstractmethod
    def loss(self, labels: Labels, weights: str, device: torch.device) -> TaskLoss:
        """Return what a site minimizes.

        Parameters
        ----------
        labels : NDArray
            Of its training examples.
        weights : str
            ``none`` or ``balanced``: ``train.class_weights``.
        device : torch.device
            Where it trains.

        Raises
        ------
        UserError
            The kind has no such weights.
        """

    @abstractmethod
    def measure(self, outputs: Tensor, labels: Tensor) -> Measured:
        """Return ``examples`` and the kind's measures of float32 outputs, ``(n, outputs)``."""

    def measure_each(self, outputs: Sequence[Tensor], labels: Sequence[Tensor]) -> list[Measured]:
        """Return what `measure` says of each of many models, to the bit."""
        return [self.measure(mine, true) for mine, true in zip(outputs, labels, strict=True)]

    @abstractmethod
    def baseline(self, train: Labels, validation: Labels, test: Labels) -> dict[str, float]:
        """Return the measures on the test data of a guess without any input, by name."""

    @abstractmethod
    def interval(
        self, outputs: Tensor, labels: Tensor, generator: np.random.Generator
    ) -> Interval | None:
        """Return the bootstrap interval of the leading measure, or None where there is none."""

    def by_class(
        self, validation: Outputs, test: Outputs, generator: np.random.Generator
    ) -> ByClass | None:
        """Return the measures of each class or label on the test data; None for numbers."""
        del validation, test, generator
        return None

    def _with_each(self, measured: Measured, of_each: Numbers, examples: int) -> Measured:
        """Return the measures, and where a report has them, those of each output."""
        names = MEASURES[self.kind.name].of_outputs(self.outputs)
        each = zip(names, map(or_none, of_each), strict=True) if names else ()
        return {"examples": float(examples), **measured, **dict(each)}


class OneOfClasses(Objective):
    """One of several classes holds: softmax."""

    def loss(self, labels: Labels, weights: str, device: torch.device) -> TaskLoss:
        """Return cross-entropy; with ``balanced`` all classes weigh alike."""
        if weights == "none":
            return CrossEntropy()
        return CrossEntropy(class_weights(labels, self.outputs).to(device))

    def measure(self, outputs: Tensor, labels: Tensor) -> Measured:
        """Return loss, accuracy, balanced accuracy and AUROC."""
        return metrics(outputs, labels, self.outputs)

    def measure_each(self, outputs: Sequence[Tensor], labels: Sequence[Tensor]) -> list[Measured]:
        """Return the measures of each of many models, those of equally long data as one."""
        return metrics_of_each(outputs, labels, self.outputs)

    def baseline(self, train: Labels, validation: Labels, test: Labels) -> dict[str, float]:
        """Return the accuracy of the commonest training class."""
        # Of classes that are equally common in training (labels_per_class), validation decides.
        counts = [np.bincount(part, minlength=self.outputs) for part in (validation, train)]
        return {"accuracy": float(np.mean(test == int(np.lexsort(counts)[-1])))}

    def interval(
        self, outputs: Tensor, labels: Tensor, generator: np.random.Generator
    ) -> Interval | None:
        """Return the interval of the accuracy."""
        hits = int((outputs.argmax(1) == labels).sum())
        return bootstrap_of_share(hits, len(labels), generator)

    def by_class(
        self, validation: Outputs, test: Outputs, generator: np.random.Generator
    ) -> ByClass | None:
        """Return the measures of each class against the rest."""
        return class_measures.of_classes(validation, test, generator)


class SeveralLabels(Objective):
    """Any of several labels hold: sigmoid outputs."""

    def loss(self, labels: Labels, weights: str, device: torch.device) -> TaskLoss:
        """Return binary cross-entropy; with ``balanced`` both values of a label weigh alike."""
        if weights == "none":
            return BinaryCrossEntropy()
        return BinaryCrossEntropy(label_weights(labels).to(device))

    def measure(self, outputs: Tensor, labels: Tensor) -> Measured:
        """Return loss, macro AUROC, macro average precision, accuracy, and AUROC per label."""
        return self._with_each(*label_metrics(outputs, labels), len(labels))

    def baseline(self, train: Labels, validation: Labels, test: Labels) -> dict[str, float]:
        """Return the AUROC of chance, and the accuracy of each label's commoner training value."""
        del validation
        return {"auroc": 0.5, "accuracy": commoner_value_accuracy(train, test)}

    def interval(
        self, outputs: Tensor, labels: Tensor, generator: np.random.Generator
    ) -> Interval | None:
        """Return the interval of the macro AUROC."""
        return auroc_interval(outputs, labels, generator)

    def by_class(
        self, validation: Outputs, test: Outputs, generator: np.random.Generator
    ) -> ByClass | None:
        """Return the measures of each label."""
        return class_measures.of_labels(validation, test, generator)


class SomeNumbers(Objective):
    """One or more numbers, predicted as ``(number - mean) / std``."""

    @property
    def mean(self) -> tuple[float, ...]:
        """One per output; 0 where none are configured or agreed."""
        return self.kind.mean or (0.0,) * self.outputs

    @property
    def std(self) -> tuple[float, ...]:
        """One per output; 1 where none are configured or agreed."""
        return self.kind.std or (1.0,) * self.outputs

    def loss(self, labels: Labels, weights: str, device: torch.device) -> NumberLoss:
        """Return the mean square or the Huber error."""
        del labels, device
        if weights != "none":
            raise UserError(
                f"train.class_weights={weights}: a task of numbers has no classes to weigh; write "
                "train.class_weights=none"
            )
        return self._loss()

    def measure(self, outputs: Tensor, labels: Tensor) -> Measured:
        """Return loss, MAE, RMSE and R2, and MAE per number."""
        loss = float(self._loss()(outputs.double(), labels.double()))
        found, of_each = number_metrics(self.predicted(outputs), labels, loss)
        return self._with_each(found, of_each, len(labels))

    def predicted(self, outputs: Tensor) -> Tensor:
        """Return outputs as numbers in their own units, float64."""
        mean, std = (torch.tensor(each, dtype=torch.float64) for each in (self.mean, self.std))
        return outputs.double() * std + mean

    def baseline(self, train: Labels, validation: Labels, test: Labels) -> dict[str, float]:
        """Return MAE and RMSE of the mean of the training data."""
        del validation
        return errors_of_mean(train, test)

    def interval(
        self, outputs: Tensor, labels: Tensor, generator: np.random.Generator
    ) -> Interval | None:
        """Return the interval of the MAE."""
        return mae_interval(self.predicted(outputs), labels, generator)

    def _loss(self) -> NumberLoss:
        return NumberLoss(self.kind.loss, self.mean, self.std)


OBJECTIVES: Mapping[str, type[Objective]] = {
    CLASSES: OneOfClasses,
    LABELS: SeveralLabels,
    NUMBER: SomeNumbers,
}


def objective_of(kind: TaskKind, outputs: int) -> Objective:
    """Return what a task of ``kind`` with so many outputs is trained and measured by."""
    return OBJECTIVES[kind.name](outputs, kind)
