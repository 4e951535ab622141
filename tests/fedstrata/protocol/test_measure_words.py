"""Measures as a table, a page and a terminal show them."""

from __future__ import annotations

from typing import Any

import pytest

from fedstrata.protocol.measure_words import (
    BASELINES,
    WORDS,
    gain_text,
    gain_words,
    value_text,
    value_words,
)
from fedstrata.protocol.measures import MEASURES


@pytest.mark.parametrize(
    ("name", "value", "unit", "text"),
    [
        ("accuracy", 0.912, "", "91.20 %"),
        ("balanced_accuracy", 1.0, "", "100.00 %"),
        ("auroc", 0.8421, "", "0.842"),
        ("mae", 6.23456, "years", "6.235 years"),
        ("rmse", 8.0, "", "8"),
        ("r2", -0.25, "years", "-0.250"),
        ("auroc", None, "", "-"),
    ],
)
def test_a_value_in_words(name: str, value: float | None, unit: str, text: str) -> None:
    assert value_text(name, value, unit) == text


def test_a_gain_has_its_sign() -> None:
    assert gain_text("classes", 0.051) == "+5.10 points"
    assert gain_text("labels", -0.02) == "-0.020"
    assert gain_text("number", 1.5, "years") == "+1.5 years"
    assert gain_text("number", None) == "-"


def test_every_measure_but_the_loss_has_a_word() -> None:
    names = {name for measures in MEASURES.values() for name in measures.of}
    assert names - {"loss"} == set(WORDS)
    assert set(BASELINES) == set(MEASURES)


@pytest.mark.parametrize(
    ("row", "name", "value", "words", "gain"),
    [
        ({}, "accuracy", 0.912, "91.20 %", "+91.20 points"),
        ({"kind": "labels"}, "auroc", 0.8421, "0.842", "+0.842"),
        ({"kind": "number", "unit": "years"}, "mae", 6.21, "6.21 years", "+6.21 years"),
        ({"kind": "number"}, "mae", None, "-", "-"),
    ],
)
def test_each_kind_has_its_words(
    row: dict[str, Any], name: str, value: float | None, words: str, gain: str
) -> None:
    assert value_words(row, name, value) == words
    assert gain_words(row, value) == gain
