"""Values and gains of measures are written with their units."""

from __future__ import annotations

from typing import Any

import pytest

from fedstrata.protocol.measure_words import gain_words, value_words


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
