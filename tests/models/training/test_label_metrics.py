"""Measures of several labels are those of torchmetrics; what is not known counts nowhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import (
    multilabel_accuracy,
    multilabel_auroc,
    multilabel_average_precision,
)

from models.training.label_metrics import (
    auroc_interval,
    commoner_value_accuracy,
    label_metrics,
)


def example(seed: int, known: float) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    outputs = torch.randn(80, 4, generator=generator).mul(2).round() / 2  # with ties
    labels = torch.randint(0, 2, (80, 4), generator=generator).float()
    labels[torch.rand(80, 4, generator=generator) >= known] = torch.nan
    return outputs, labels


@pytest.mark.parametrize("known", [0.5, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_measures_are_those_of_torchmetrics(seed: int, known: float) -> None:
    outputs, labels = example(seed, known)
    found, areas = label_metrics(outputs, labels)
    wanted = labels.nan_to_num(nan=-1).long()
    chances = outputs.double().sigmoid()
    each = multilabel_auroc(chances, wanted, 4, average="none", ignore_index=-1)
    assert areas == pytest.approx(torch.as_tensor(each).numpy(), abs=1e-6)
    assert found["auroc"] == pytest.approx(float(torch.as_tensor(each).mean()), abs=1e-6)
    precision = multilabel_average_precision(chances, wanted, 4, ignore_index=-1)
    assert found["average_precision"] == pytest.approx(float(precision), abs=1e-6)
    accuracy = multilabel_accuracy(outputs > 0, wanted, 4, average="micro", ignore_index=-1)
    assert found["accuracy"] == pytest.approx(float(accuracy), abs=1e-6)


def test_a_label_with_one_value_only_has_no_auroc() -> None:
    outputs, labels = example(0, 1.0)
    labels[:, 2] = 0
    found, areas = label_metrics(outputs, labels)
    assert np.isnan(areas).tolist() == [False, False, True, False]
    assert found["auroc"] == pytest.approx(np.nanmean(areas))
    nothing, _ = label_metrics(outputs, torch.ones(80, 4))
    assert (nothing["auroc"], nothing["average_precision"]) == (None, None)
    assert auroc_interval(outputs, torch.ones(80, 4), np.random.default_rng(0)) is None


def test_where_nothing_is_known_there_is_nothing_to_say() -> None:
    found, _ = label_metrics(torch.zeros(3, 2), torch.full((3, 2), torch.nan))
    assert found == {"loss": 0.0, "auroc": None, "average_precision": None, "accuracy": None}


def test_the_interval_holds_the_macro_auroc() -> None:
    outputs, labels = example(1, 0.8)
    low, high = auroc_interval(outputs, labels, np.random.default_rng(0)) or (1, 0)
    assert low < (label_metrics(outputs, labels)[0]["auroc"] or 0) < high
    assert 0.05 < high - low < 0.3


def test_the_commoner_value_of_each_label_is_the_baseline() -> None:
    train = np.array([[1, 0], [1, 0], [0, np.nan]], np.float32)
    test = np.array([[1, 0], [0, 1], [np.nan, 0]], np.float32)
    assert commoner_value_accuracy(train, test) == pytest.approx(3 / 5)
