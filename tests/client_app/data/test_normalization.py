"""Pictures are normalized with one finite mean and one positive deviation per channel."""

from __future__ import annotations

import numpy as np
import pytest

from client_app.data.findings import Findings
from client_app.data.normalization import check_normalization, some_of, warn_of_small_range
from fedstrata.support.errors import UserError


def test_numbers_per_channel_are_accepted() -> None:
    check_normalization([0.5], [0.25], 1)
    check_normalization((0.4, 0.5, 0.6), (0.2, 0.2, 0.2), 3)


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ([0.5], [0.2] * 3, r"data\.mean: 3 numbers"),
        ([0.5] * 3, [0.2], r"data\.std: 3 numbers"),
        ([0.5, 0.5, float("nan")], [0.2] * 3, r"data\.mean"),
        ([0.5] * 3, [0.2, 0.2, float("inf")], r"data\.std"),
        ([0.5] * 3, [0.2, 0.0, 0.2], "above 0"),
    ],
)
def test_wrong_numbers_are_reported(mean, std, message) -> None:
    with pytest.raises(UserError, match=message):
        check_normalization(mean, std, 3)


@pytest.mark.parametrize(("highest", "warned"), [(1, True), (30, True), (34, False), (255, False)])
def test_half_of_the_pictures_nearly_one_gray_are_a_warning(highest, warned) -> None:
    picture = np.zeros((4, 4, 1), np.uint8)
    picture[0, 0] = highest
    found = Findings()
    warn_of_small_range([picture, picture, picture + 1], "mend them", found)
    assert bool(found.warnings) == warned


def test_deep_pictures_and_none_are_no_warning() -> None:
    found = Findings()
    warn_of_small_range([], "mend them", found)
    warn_of_small_range([np.zeros((4, 4, 1), np.float32)], "mend them", found)
    assert not found.warnings


def test_some_of_many_are_evenly_spaced() -> None:
    assert some_of([]) == []
    assert some_of(range(3)) == range(3)
    assert list(some_of(range(1000))) == list(range(0, 1000, 16))
