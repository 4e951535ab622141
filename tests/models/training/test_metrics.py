"""Metrics are those of a table worked out by hand, and of torchmetrics."""

from __future__ import annotations

import pytest
import torch
from torchmetrics.functional.classification import multiclass_auroc, multiclass_recall

from models.training.metrics import metrics


def test_metrics_of_a_table_worked_out_by_hand() -> None:
    logits = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.5]])
    labels = torch.tensor([0, 0, 1, 1])
    found = metrics(logits, labels, 2)
    assert found["accuracy"] == 0.75
    assert found["balanced_accuracy"] == pytest.approx((1 + 0.5) / 2)
    assert found["auroc"] == pytest.approx(1.0)  # every positive scores above every negative
    only = metrics(logits[:2], labels[:2], 2)
    assert only["auroc"] is None
    assert only["balanced_accuracy"] == 1.0


@pytest.mark.parametrize("seed", [46, 50, 78])
def test_a_perfect_auroc_is_never_above_one(seed: int) -> None:
    # Logits on which the float32 areas come to more than 1 by a rounding.
    generator = torch.Generator().manual_seed(seed)
    examples = int(torch.randint(20, 60, (1,), generator=generator))
    labels = torch.arange(examples) % 6
    noise = torch.rand(examples, 6, generator=generator)
    logits = torch.nn.functional.one_hot(labels, 6).float() * 9 + noise
    assert metrics(logits, labels, 6)["auroc"] == 1.0


@pytest.mark.parametrize("classes", [2, 6])
@pytest.mark.parametrize("seed", range(4))
def test_metrics_are_those_of_torchmetrics(seed: int, classes: int) -> None:
    # Ties by rounding the logits; with every other seed the last class does not occur.
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(70, classes, generator=generator).mul(2).round() / 2
    labels = torch.randint(0, max(2, classes - seed % 2), (70,), generator=generator)
    found = metrics(logits, labels, classes)
    occurs = torch.bincount(labels, minlength=classes) > 0
    recall = multiclass_recall(logits.argmax(1), labels, classes, average=None)
    areas = torch.as_tensor(multiclass_auroc(logits.softmax(1), labels, classes, average=None))
    assert found["balanced_accuracy"] == pytest.approx(float(recall[occurs].mean()), abs=1e-6)
    assert found["auroc"] == pytest.approx(float(areas[occurs].mean()), abs=1e-6)
