"""Means over sites, and who gave no report."""

from __future__ import annotations

import pytest

from server_app.evaluation import missing
from server_app.rounds.records import RoundRecord, mean_of_known


def test_a_mean_is_over_the_sites_that_have_a_value() -> None:
    assert mean_of_known([0.5, None, 1.0]) == pytest.approx(0.75)
    assert mean_of_known([None]) is None


def test_who_gave_no_report_is_listed_by_reason_and_name() -> None:
    record = RoundRecord(3, refused={"b": "bad", "a": "bad"}, late={"c": "slow"})
    assert missing(record) == {
        "refused": {"a": "bad", "b": "bad"},
        "late": {"c": "slow"},
        "absent": {},
    }
    assert list(missing(record)["refused"]) == ["a", "b"]
