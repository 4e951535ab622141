"""Each kind of task has its loss, its measures, its baseline and its interval."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedstrata.protocol.measures import MEASURES, kind_of
from fedstrata.protocol.task_kinds import KINDS, TaskKind
from fedstrata.support.errors import UserError
from models.training.data import Labels
from models.training.losses import BinaryCrossEntropy, CrossEntropy, NumberLoss
from models.training.objectives import Objective, objective_of

CPU = torch.device("cpu")


def objective(kind: str, outputs: int = 3) -> Objective:
    return objective_of(TaskKind(kind), outputs)


def labels_of(kind: str, examples: int = 30) -> Labels:
    generator = np.random.default_rng(2)
    if kind == "classes":
        return generator.integers(0, 3, examples)
    if kind == "labels":
        return generator.integers(0, 2, (examples, 3)).astype(np.float32)
    return generator.normal(size=(examples, 3)).astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_measures_are_exactly_those_of_the_kind(kind: str) -> None:
    outputs, labels = torch.randn(30, 3), torch.from_numpy(labels_of(kind))
    found = objective(kind).measure(outputs, labels)
    assert kind_of(found) == kind
    assert set(found) == {"examples", *MEASURES[kind].of, *MEASURES[kind].of_outputs(3)}
    baseline = objective(kind).baseline(labels_of(kind), labels_of(kind), labels_of(kind))
    assert set(baseline) == set(MEASURES[kind].baseline)
    interval = objective(kind).interval(outputs, labels, np.random.default_rng(0))
    assert interval is not None
    assert interval[0] <= (found[MEASURES[kind].leading] or 0) <= interval[1]


@pytest.mark.parametrize(
    ("kind", "loss"),
    [("classes", CrossEntropy), ("labels", BinaryCrossEntropy), ("number", NumberLoss)],
)
def test_each_kind_has_its_loss(kind: str, loss: type) -> None:
    assert isinstance(objective(kind).loss(labels_of(kind), "none", CPU), loss)


def test_weights_balance_classes_and_labels_and_are_refused_for_numbers() -> None:
    labels = np.array([[1, 0, 0]] * 3 + [[0, 1, 0]], np.float32)
    balanced = objective("labels").loss(labels, "balanced", CPU)
    assert isinstance(balanced, BinaryCrossEntropy)
    assert balanced.weight is not None
    assert balanced.weight.tolist() == pytest.approx([1 / 3, 3.0, 1.0])
    with pytest.raises(UserError, match="class_weights=balanced: a task of numbers has no classes"):
        objective("number").loss(labels_of("number"), "balanced", CPU)


def test_numbers_are_measured_in_their_own_units() -> None:
    kind = TaskKind("number", mean=(50.0,), std=(10.0,), unit="years")
    found = objective_of(kind, 1).measure(
        torch.tensor([[0.0], [1.0]]), torch.tensor([[50.0], [63.0]])
    )
    assert found["mae"] == pytest.approx(1.5)
    assert found["loss"] == pytest.approx((0 + 0.3**2) / 2)
    assert "mae/0" not in found  # one number: it is the mean


def test_the_commonest_class_is_decided_by_validation_where_training_has_as_many() -> None:
    train, validation = np.array([0, 1]), np.array([1])
    assert objective("classes").baseline(train, validation, np.array([1, 1, 0, 1])) == {
        "accuracy": 0.75
    }
