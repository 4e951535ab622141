"""How good outputs are for numbers, in the numbers' own units; what is not known counts nowhere."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from models.training.data import Labels
from models.training.intervals import bootstrap
from models.training.rankings import Numbers


def number_metrics(
    predicted: Tensor, labels: Tensor, loss: float
) -> tuple[dict[str, float | None], Numbers]:
    """Return ``loss, mae, rmse, r2``, means over the numbers; and the MAE of each.

    ``r2`` is the share of the variance that is explained, below 0 where the mean of the targets
    would be nearer; None where no number varies. All are None where nothing is known.

    Parameters
    ----------
    predicted : Tensor
        ``(n, numbers)``, in their own units.
    labels : Tensor
        float32, ``(n, numbers)``, NaN where not known.
    loss : float
        The mean loss, of standardized numbers.
    """
    wanted = labels.double().numpy()
    errors = predicted.double().numpy() - wanted
    mae = mean_of_known(np.abs(errors))
    squares = mean_of_known(errors**2)
    spread = mean_of_known((wanted - mean_of_known(wanted)) ** 2)
    varies = spread > 0
    r2 = 1 - np.divide(squares, spread, where=varies, out=np.full(len(spread), np.nan))
    return {
        "loss": loss,
        "mae": or_none(mean_of_known(mae)),
        "rmse": or_none(mean_of_known(np.sqrt(squares))),
        "r2": or_none(mean_of_known(r2)),
    }, mae


def mae_interval(
    predicted: Tensor, labels: Tensor, generator: np.random.Generator
) -> tuple[float, float] | None:
    """Return the bootstrap interval of the MAE, or None where nothing is known."""
    errors = np.abs(predicted.double().numpy() - labels.double().numpy())
    known = ~np.isnan(errors)
    there = np.nan_to_num(errors)

    def mae(weights: Numbers) -> Numbers:
        counts = weights @ known
        sums = weights @ there
        each = np.divide(sums, counts, where=counts > 0, out=np.full(counts.shape, np.nan))
        return mean_of_known(each.T)

    return bootstrap(mae, len(labels), generator) if known.any() else None


def errors_of_mean(train: Labels, test: Labels) -> dict[str, float]:
    """Return ``mae`` and ``rmse`` on ``test`` of always answering the mean of ``train``."""
    errors = test.astype(np.float64) - mean_of_known(train.astype(np.float64))
    found = {
        "mae": mean_of_known(np.abs(errors)),
        "rmse": np.sqrt(mean_of_known(errors**2)),
    }
    return {name: or_none(mean_of_known(each)) or 0.0 for name, each in found.items()}


def mean_of_known(values: Numbers) -> Numbers:
    """Return the mean along the first axis of what is not NaN; NaN where there is none."""
    known = ~np.isnan(values)
    counts = np.asarray(known.sum(axis=0))
    sums = np.where(known, values, 0.0).sum(axis=0)
    means: Numbers = np.divide(sums, counts, where=counts > 0, out=np.full(counts.shape, np.nan))
    return means


def or_none(value: Numbers | float) -> float | None:
    """Return a number, or None for NaN."""
    return None if np.isnan(value) else float(value)
