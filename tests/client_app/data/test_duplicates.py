"""The same content in two splits, under two labels or at two sites is refused, dropped or kept."""

from __future__ import annotations

import numpy as np
import pytest

from client_app.data.duplicates import Examples, settle_duplicates
from client_app.data.findings import Findings
from fedstrata.support.errors import UserError, private


def examples(copies, labels=None, splits=None, sites=None) -> Examples:
    many = len(copies)
    return Examples(
        np.array(copies),
        np.array(labels or [0] * many),
        splits or [None] * many,
        None if sites is None else np.array(sites),
        lambda row: private(f"{row}.png", "a file"),
        "picture",
    )


LEAK = examples([5, 5, 6, 7, 7, 7], splits=["train", "test", "train", "train", None, "validation"])
CONTRADICTION = examples([1, 1, 2, 2], [0, 1, 0, 0])
TWO_SITES = examples([1, 2, 1], sites=["a", "a", "b"])


def test_examples_without_copies_are_all_used() -> None:
    found = Findings()
    assert settle_duplicates(examples([3, 1, 2]), "refuse", found).tolist() == [0, 1, 2]
    assert not found.notes


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (LEAK, r"in two splits \(2 times\): 0\.png \(train\) = 1\.png \(test\); 3\.png .*drop"),
        (CONTRADICTION, r"have two labels \(1 times\): 0\.png"),
        (TWO_SITES, r"belong to two sites \(1 times\): 0\.png \(train\) = 2\.png"),
    ],
)
def test_copies_that_leak_are_refused(given, message) -> None:
    with pytest.raises(UserError, match=message) as raised:
        settle_duplicates(given, "refuse", Findings())
    assert "png" not in raised.value.public


@pytest.mark.parametrize(
    ("given", "used"), [(LEAK, [1, 2, 5]), (CONTRADICTION, [2]), (TWO_SITES, [0, 1])]
)
def test_of_copies_the_one_of_the_test_stays_and_of_two_labels_none(given, used) -> None:
    found = Findings()
    assert settle_duplicates(given, "drop", found).tolist() == used
    assert found.left_out == {"duplicate": len(given.copies) - len(used)}


def test_copies_that_are_kept_are_said() -> None:
    found = Findings()
    assert len(settle_duplicates(LEAK, "keep", found)) == 6
    assert "2 pictures stand in two splits" in found.warnings[0].whole
    harmless = examples([1, 1])
    assert settle_duplicates(harmless, "refuse", found).tolist() == [0, 1]
    assert "1 pictures are copies of others" in found.notes[-1].whole


def test_labels_that_are_not_known_in_both_are_no_contradiction() -> None:
    nan = float("nan")
    same = examples([1, 1], [[1.0, nan], [1.0, nan]])
    assert settle_duplicates(same, "refuse", Findings()).tolist() == [0, 1]


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(UserError, match="refuse, drop, keep, not 'ask'"):
        settle_duplicates(LEAK, "ask", Findings())
