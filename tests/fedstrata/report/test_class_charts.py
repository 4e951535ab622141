"""Confusion, calibration and ROC."""

from __future__ import annotations

from fedstrata.report import class_charts
from fedstrata.runs.results import Calibration
from tests.helpers.run_results import HOSTILE


def test_the_matrix_has_counts_and_names() -> None:
    drawn = class_charts.draw_confusion([HOSTILE, "well"], [[7, 1], [0, 0]])
    assert ">7</text>" in drawn or "7<title>" in drawn
    assert "well, answered well: 0 (0.0 %)" in drawn
    assert "(87.5 %)" in drawn
    assert "<script" not in drawn


def test_a_large_matrix_is_shaded_without_numbers() -> None:
    counts = [[int(row == column) for column in range(20)] for row in range(20)]
    drawn = class_charts.draw_confusion([f"c{n}" for n in range(20)], counts)
    assert drawn.count('class="heat heat10"') == 20
    assert drawn.count("<text") == 22  # the names of the rows, and the two labels


def test_empty_bins_are_left_out() -> None:
    drawn = class_charts.draw_calibration(
        Calibration(0.1, [None, (0.2, 0.3, 0.5), (0.9, 0.8, 0.5)])
    )
    assert drawn.count("<circle") == 2
    assert "says 0.200, holds in 0.300, 50.0 % of the examples" in drawn


def test_at_most_so_many_curves_are_drawn() -> None:
    roc = {f"c{n}": [0.0, 0.8, 1.0] for n in range(30)}
    assert class_charts.draw_roc(roc).count("<polyline") == class_charts.MOST_CURVES
    assert len(class_charts.roc_legend(roc)) == class_charts.MOST_CURVES
    assert class_charts.draw_roc({"none": []})
