"""Axes begin and end at round values."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedstrata.report.axes import Scale, draw_x, draw_y, rounded_scale
from fedstrata.report.elements import Drawing


def test_a_scale_goes_from_end_to_end() -> None:
    scale = Scale(0, 10, 100, 200)
    assert [scale(value) for value in (0, 5, 10, 99)] == [100, 150, 200, 200]
    assert scale.ticks() == [0, 2, 4, 6, 8, 10]


def test_a_share_is_never_above_one() -> None:
    scale = rounded_scale([0.93, 0.999], 0, 100, lowest=0, highest=1)
    assert scale.high == 1
    assert scale.low == pytest.approx(0.92)


@settings(max_examples=50)
@given(st.lists(st.floats(-1e39, 1e39) | st.just(math.nan), max_size=5))
def test_any_values_have_an_axis(values: list[float]) -> None:
    scale = rounded_scale(values, 0, 100)
    assert scale.low < scale.high
    assert len(scale.ticks()) < 10
    for value in values:
        if math.isfinite(value):
            assert 0 <= scale(value) <= 100


def test_axes_have_their_label_and_values() -> None:
    drawing = Drawing(100, "axes")
    draw_x(drawing, Scale(0, 4, 0, 100), 0, 50, "rounds", lambda value: f"{value:g}")
    draw_y(drawing, Scale(0, 1, 50, 0), 0, 100, "accuracy", lambda value: f"{value:.1f}")
    texts = [text.text for text in drawing.root.iter("text")]
    assert texts == [
        "0",
        "1",
        "2",
        "3",
        "4",
        "rounds",
        "0.0",
        "0.2",
        "0.4",
        "0.6",
        "0.8",
        "1.0",
        "accuracy",
    ]
