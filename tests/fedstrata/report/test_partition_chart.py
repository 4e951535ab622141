"""The stack of layer groups."""

from __future__ import annotations

import re

from fedstrata.report import partition_chart
from tests.helpers.run_results import run_results, typed


def test_tasks_with_the_same_partition_share_a_stack() -> None:
    plain = run_results()
    assert [tasks for tasks, _ in partition_chart.alike(typed(plain).partition)] == [
        ["age", "grade"]
    ]
    plain["partition"]["grade"] = plain["partition"]["grade"][:2]
    assert len(partition_chart.alike(typed(plain).partition)) == 2


def test_the_larger_group_is_taller_and_the_empty_one_is_not_drawn() -> None:
    [(tasks, rows)] = partition_chart.alike(typed(run_results()).partition)
    drawn = partition_chart.draw(tasks, rows)
    common, personal = map(float, re.findall(r'height="([\d.]+)"', drawn))
    assert common - partition_chart.LEAST == 3 * (personal - partition_chart.LEAST)
    assert "75 k parameters, 75 %" in drawn
    assert "300 kB" in drawn
    assert "pretrained" not in drawn


def test_a_group_of_another_name_has_a_color_too() -> None:
    assert partition_chart.css_of("task/grade") == "group-task"
    assert partition_chart.css_of("x y") == "group-other"
