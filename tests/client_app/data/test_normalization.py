"""Pictures are normalized with one finite mean and one positive deviation per channel."""

from __future__ import annotations

import pytest

from client_app.data.normalization import check_normalization
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
