"""Tests of the options of pictures."""

from __future__ import annotations

import pytest

from fedstrata.support.errors import UserError
from tests.helpers.picture_options import picture_options as options


def test_range_and_window_say_which_values_become_black_and_white() -> None:
    assert options().given_span() is None
    assert options(range=[0, 4095]).given_span() == (0, 4095)
    assert options(window=[40, 400]).given_span() == (-160, 240)
    assert options(window="file").given_span() is None


def test_gray_pictures_take_one_number_or_the_weighted_three() -> None:
    mean, std = options(channels=1).normalization()
    assert mean == (pytest.approx(0.459, abs=1e-3),)
    assert std == (pytest.approx(0.226, abs=1e-3),)
    assert options(channels=1, mean=[0.5], std=[0.1]).normalization() == ((0.5,), (0.1,))


def test_the_background_is_a_color() -> None:
    assert options(background="black").preparation().background == (0, 0, 0)
    assert options(background="#0a141e").preparation().background == (10, 20, 30)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"size": 0}, r"data\.size"),
        ({"channels": 2}, r"data\.channels: 1 \(gray\) or 3"),
        ({"mean": [0.5]}, r"data\.mean: 3 numbers"),
        ({"std": [1.0, 1.0, 0.0]}, r"data\.std"),
        ({"background": "sky"}, r"data\.background: 'sky' is no color"),
        ({"range": [0]}, r"data\.range: two numbers"),
        ({"range": [5, 5]}, r"data\.range: the second number is not above"),
        ({"range": [0, float("inf")]}, r"data\.range: two numbers"),
        ({"window": "auto"}, r"data\.window: two numbers, \[center, width\], or file"),
        ({"window": [40, 0]}, r"data\.window: a width above 0"),
        ({"window": [40, 1], "range": [0, 1]}, "give one of them"),
        ({"slices": "some"}, r"data\.slices: all or middle"),
        ({"nifti_axis": 3}, r"data\.nifti_axis"),
        ({"nifti_stride": 0}, r"data\.nifti_stride"),
        ({"unreadable": "ignore"}, r"data\.unreadable: refuse or skip"),
        ({"unreadable_most": -1}, r"data\.unreadable_most"),
        ({"memory_mb": -1}, r"data\.memory_mb"),
        ({"cache_mb": -1}, r"data\.cache_mb"),
    ],
)
def test_options_that_make_no_sense_are_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        options(**changes)
