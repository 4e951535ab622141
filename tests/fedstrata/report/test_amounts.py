"""Amounts in words."""

from __future__ import annotations

import pytest

from fedstrata.report.amounts import bytes_text, count_text, seconds_text, several


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (8400, "8.4 kB"),
        (999_600, "1 MB"),
        (677e6, "677 MB"),
        (2e18, "2e+03 PB"),
    ],
)
def test_bytes(size: float, text: str) -> None:
    assert bytes_text(size) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (9999, "9,999"), (11_176_512, "11.2 M"), (3 * 10**9, "3 G"), (10_000, "10 k")],
)
def test_counts(count: int, text: str) -> None:
    assert count_text(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.25, "0.2 s"), (42.4, "42 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")]
)
def test_seconds(seconds: float, text: str) -> None:
    assert seconds_text(seconds) == text


def test_plurals() -> None:
    assert [several(1, "site"), several(2, "site"), several(2, "class", "classes")] == [
        "1 site",
        "2 sites",
        "2 classes",
    ]
