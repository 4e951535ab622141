"""Measures in words, each kind of task by its own."""

from __future__ import annotations

from typing import Any

from fedstrata.protocol.measure_words import gain_words
from server_app import measure_words

AGE: dict[str, Any] = {
    **{"kind": "number", "unit": "years", "task": "age", "examples": 10.0, "loss": 0.5},
    **{"mae": 6.2, "rmse": 8.0, "r2": 0.25, "baseline_mae": 9.8, "alone_mae": 7.0},
}
CHEST: dict[str, Any] = {
    **{"kind": "labels", "task": "chest", "examples": 10.0, "loss": 0.3, "auroc": 0.8421},
    **{"average_precision": None, "accuracy": 0.9, "baseline_auroc": 0.5, "alone_auroc": None},
}
GRADE: dict[str, Any] = {
    **{"task": "grade", "examples": 10.0, "loss": 0.7, "accuracy": 0.75, "auroc": None},
    **{"balanced_accuracy": 0.5, "majority_accuracy": 0.6, "alone_accuracy": 0.7},
}


def test_each_kind_leads_with_its_own_measure() -> None:
    assert measure_words.leading(AGE) == "MAE 6.2 years"
    assert measure_words.leading({**AGE, "interval": [5.0, 7.25]}) == "MAE 6.2 years [5, 7.25]"
    assert measure_words.leading(CHEST) == "AUROC 0.842"
    assert measure_words.leading(GRADE) == "accuracy 75.00 %"
    assert measure_words.besides(AGE) == "RMSE 8 years, R2 0.250"
    assert measure_words.besides(CHEST) == "average precision -, accuracy 90.00 %"


def test_a_guess_without_input_stands_beside() -> None:
    assert measure_words.baseline(AGE) == "mean: 9.8 years"
    assert measure_words.baseline(CHEST) == "chance: 0.500"
    assert measure_words.baseline(GRADE) == "majority class: 60.00 %"


def test_a_smaller_error_is_a_gain() -> None:
    gains = [measure_words.gain_over_alone(row) for row in (AGE, CHEST, GRADE)]
    words = [gain_words(row, gain) for row, gain in zip((AGE, CHEST, GRADE), gains, strict=True)]
    assert words == ["+0.8 years", "-", "+5.00 points"]


def test_no_mean_is_taken_over_different_kinds() -> None:
    other = {**GRADE, "task": "stage", "accuracy": 0.25}
    sites = dict(zip("abcd", (GRADE, other, AGE, CHEST), strict=True))
    assert measure_words.received_words(sites) == (
        "accuracy 50.00 %, loss 0.7000; age: MAE 6.2 years, loss 0.5000; "
        "chest: AUROC 0.842, loss 0.3000"
    )
    assert measure_words.received_words(sites, {"b": 0.125, "c": 7.2}) == (
        "accuracy 50.00 %, loss 0.7000, +12.50 points (1 of 2 sites) over alone; "
        "age: MAE 6.2 years, loss 0.5000, +1 years over alone; chest: AUROC 0.842, loss 0.3000"
    )
