"""Metrics are those of a table worked out by hand, and of torchmetrics."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn
from torchmetrics.functional.classification import multiclass_auroc, multiclass_recall

from models.training.data import ArrayInputs, Split
from models.training.metrics import evaluate, logits_of, metrics


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


CPU = torch.device("cpu")


def test_the_loss_is_the_mean_cross_entropy() -> None:
    found = metrics(torch.zeros(4, 3), torch.tensor([0, 1, 2, 2]), 3)
    assert found["loss"] == pytest.approx(math.log(3))


def test_one_class_has_no_auroc() -> None:
    assert metrics(torch.randn(5, 2), torch.zeros(5, dtype=torch.int64), 2)["auroc"] is None


def test_batches_do_not_change_the_outputs_and_the_network_is_in_eval_mode() -> None:
    network = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5)).train()
    inputs = ArrayInputs(np.random.default_rng(0).random((7, 4), np.float32))
    parts = logits_of(network, inputs, batch_size=2, device=CPU, autocast=False)
    whole = logits_of(network, inputs, batch_size=7, device=CPU, autocast=False)
    assert not network.training
    assert torch.allclose(parts, whole)
    split = Split(inputs, np.zeros(7, np.int64))

    def three(outputs: torch.Tensor, labels: torch.Tensor) -> dict[str, float | None]:
        return metrics(outputs, labels, 3)

    found = evaluate(network, split, measure=three, batch_size=3, device=CPU, autocast=False)
    # A product of three rows may be rounded otherwise than the same rows among seven.
    assert found == pytest.approx(metrics(whole, torch.zeros(7, dtype=torch.int64), 3))
