"""Measures of numbers are those of torchmetrics, in the numbers' own units."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchmetrics.functional import mean_absolute_error, mean_squared_error, r2_score

from models.training.number_metrics import (
    errors_of_mean,
    mae_interval,
    mean_of_known,
    number_metrics,
)


def example(numbers: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    labels = 50 + 10 * torch.randn(60, numbers, generator=generator)
    return labels.double() + 4 * torch.randn(60, numbers, generator=generator), labels


def test_measures_are_those_of_torchmetrics() -> None:
    predicted, labels = example()
    found, each = number_metrics(predicted, labels, 0.5)
    wanted = labels.double()
    columns = [(predicted[:, i], wanted[:, i]) for i in range(2)]
    maes = [float(mean_absolute_error(*pair)) for pair in columns]
    assert each == pytest.approx(maes)
    assert found["mae"] == pytest.approx(np.mean(maes))
    rmses = [float(mean_squared_error(*pair, squared=False)) for pair in columns]
    assert found["rmse"] == pytest.approx(np.mean(rmses))
    assert found["r2"] == pytest.approx(float(r2_score(predicted, wanted)))
    assert found["loss"] == 0.5


def test_what_is_not_known_counts_nowhere() -> None:
    predicted, labels = example(1)
    part, _ = number_metrics(predicted[:40], labels[:40], 0.0)
    labels[40:] = torch.nan
    assert number_metrics(predicted, labels, 0.0)[0] == pytest.approx(part)


def test_numbers_that_do_not_vary_have_no_r2() -> None:
    found, _ = number_metrics(torch.zeros(5, 1), torch.full((5, 1), 3.0), 1.0)
    assert (found["mae"], found["rmse"], found["r2"]) == (3.0, 3.0, None)
    unknown, _ = number_metrics(torch.zeros(5, 1), torch.full((5, 1), torch.nan), 0.0)
    assert (unknown["mae"], unknown["rmse"], unknown["r2"]) == (None, None, None)
    assert mae_interval(torch.zeros(5, 1), torch.full((5, 1), torch.nan), _rng()) is None


def test_the_interval_holds_the_mae() -> None:
    predicted, labels = example()
    low, high = mae_interval(predicted, labels, _rng()) or (1, 0)
    assert low < (number_metrics(predicted, labels, 0.0)[0]["mae"] or 0) < high
    assert 0.3 < high - low < 2


def test_the_mean_of_training_is_the_baseline() -> None:
    train = np.array([[1.0], [3.0], [np.nan]], np.float32)
    test = np.array([[2.0], [6.0]], np.float32)
    assert errors_of_mean(train, test) == pytest.approx({"mae": 2.0, "rmse": 8**0.5})


def test_means_are_over_what_is_known() -> None:
    assert mean_of_known(np.array([1.0, np.nan, 3.0])) == 2.0
    assert np.isnan(mean_of_known(np.array([np.nan])))


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)
