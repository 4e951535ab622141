"""The table of classes shows each task's rates, the worst classes first where there are many."""

from __future__ import annotations

from typing import Any

from server_app.class_tables import class_table


def rates(value: float | None) -> dict[str, Any]:
    return dict.fromkeys(("sensitivity", "specificity", "ppv", "npv", "f1"), value)


def test_each_class_has_a_row() -> None:
    high = {**rates(None), "npv": 0.5}
    text = class_table({"grade": {"by_class": {"low": rates(0.954), "high": high}}})
    assert "PPV" in text
    assert "0.95" in text
    assert next(line for line in text.splitlines() if "high" in line).count(" - ") == 4


def test_of_many_classes_the_worst_are_shown_and_the_others_counted() -> None:
    classes = {f"class-{number:02d}": rates(number / 20) for number in range(14)}
    text = class_table({"grade": {"by_class": {**classes, "none": {**rates(0.9), "f1": None}}}})
    assert "class-09" in text
    assert "class-10" not in text
    assert "5 more with a higher F1" in text


def test_of_many_tasks_some_are_shown_and_the_others_counted() -> None:
    text = class_table({f"t{n:02d}": {"by_class": {"low": rates(0.5)}} for n in range(22)})
    assert "t19" in text
    assert "t20" not in text
    assert "2 more tasks" in text


def test_a_task_of_numbers_or_of_withheld_rates_has_no_table() -> None:
    assert class_table({"age": {"mae": 6.0}}) == ""
    assert class_table({"grade": {"by_class": {"low": rates(None)}}}) == ""
