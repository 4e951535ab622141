"""Bytes and seconds by round."""

from __future__ import annotations

import pytest

from fedstrata.report import traffic_chart
from fedstrata.report.traffic_chart import columns_of
from fedstrata.runs.results import Round
from tests.helpers.run_results import run_results, typed

ROUNDS = typed(run_results()).rounds


def test_bars_are_stacked_by_group() -> None:
    drawn = traffic_chart.draw_bytes(ROUNDS, up=True)
    assert drawn.count("bar group-common") == drawn.count("bar group-task") == 3
    assert "round 2, common: 900 B" in drawn
    assert "round 2, common: 1 kB" in traffic_chart.draw_bytes(ROUNDS, up=False)
    assert "round 1, seconds: 1.5 s" in traffic_chart.draw_seconds(ROUNDS)


def test_many_rounds_are_means() -> None:
    rounds = [Round(round=n + 1, seconds=float(n)) for n in range(150)]
    columns = columns_of(rounds, [{"seconds": each.seconds} for each in rounds])
    assert len(columns) == 50
    assert columns[0].label == "rounds 1 to 3, mean"
    assert columns[0].parts["seconds"] == pytest.approx(1)
    assert columns[-1].last == 150


def test_rounds_that_sent_nothing_are_no_error() -> None:
    assert traffic_chart.draw_bytes([Round(round=1)], up=True)
