"""A day's orders are counted on disk: a restart begins no new day, midnight does."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from fedstrata.protocol.limits import NotNow, Refused
from site_guard.day_counts import DayCounts
from site_guard.plan_rules import PlanRules

RULES = PlanRules(max_rounds_per_day=2, max_orders_per_day=4)


def counts(folder: Path, day: int = 30) -> DayCounts:
    return DayCounts(folder / "guard" / "today.json", RULES, lambda: date(2026, 11, day))


def test_another_process_goes_on_counting(tmp_path: Path) -> None:
    counts(tmp_path).take(trains=True)
    counts(tmp_path).take(trains=True)
    with pytest.raises(NotNow, match=r"2 rounds were taken today.*`plan: max-rounds-per-day`: 2"):
        counts(tmp_path).take(trains=True)
    counts(tmp_path).take(trains=False)
    counts(tmp_path).take(trains=False)
    with pytest.raises(NotNow, match=r"4 orders were taken today.*`plan: max-orders-per-day`: 4"):
        counts(tmp_path).take(trains=False)


def test_the_next_day_begins_at_none(tmp_path: Path) -> None:
    for day in (29, 30):
        for _ in range(2):
            counts(tmp_path, day).take(trains=True)


def test_a_file_that_cannot_be_read_lets_nothing_through(tmp_path: Path) -> None:
    made = counts(tmp_path)
    made.take(trains=True)
    made.path.write_text("{")
    with pytest.raises(Refused, match="see the site's log"):
        made.take(trains=False)
