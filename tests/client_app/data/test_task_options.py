"""Tests of `data.tasks`."""

from __future__ import annotations

import pytest

from client_app.data.task_options import TaskOptions, read_tasks
from fedstrata.protocol.task_kinds import TaskKind
from fedstrata.support.errors import UserError


@pytest.mark.parametrize("given", [None, {}])
def test_nothing_names_no_task(given: object) -> None:
    assert read_tasks(given) == ()


def test_a_list_names_tasks_and_their_columns() -> None:
    assert read_tasks(["age", "pose"]) == (
        TaskOptions("age", ("age",)),
        TaskOptions("pose", ("pose",)),
    )


def test_name_and_column_can_differ() -> None:
    assert read_tasks({"effusion": "Pleural Effusion"}) == (
        TaskOptions("effusion", ("Pleural Effusion",)),
    )


def test_a_task_of_numbers() -> None:
    entry = {"kind": "number", "loss": "huber", "mean": 50, "std": 10, "unit": "years"}
    kind = TaskKind("number", "huber", (50.0,), (10.0,), "years")
    assert read_tasks({"age": entry}) == (TaskOptions("age", ("age",), kind),)


def test_labels_of_several_columns() -> None:
    entry = {"kind": "labels", "columns": ["edema", "mass"], "uncertain": "positive"}
    (task,) = read_tasks({"chest": entry})
    assert (task.columns, task.kind.name, task.uncertain) == (
        ("edema", "mass"),
        "labels",
        "positive",
    )


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "write names, each once"),
        (["a", "a"], "write names, each once"),
        ({"a": {"colum": "x"}}, "data.tasks.a has no option 'colum'; there is 'column'"),
        ({"a": {"kind": "regression"}}, "no kind of task 'regression'"),
        ({"a": {"kind": "labels", "uncertain": "maybe"}}, "data.tasks.a.uncertain: one of"),
        (
            {"a": {"kind": "number", "mean": [1, 2], "std": [1, 2]}},
            "one number for each of 1 column",
        ),
        ({"a": {"kind": "number", "mean": "x", "std": 1}}, "data.tasks.a.mean: a number"),
        ({"a": {"kind": "number", "mean": 1, "std": float("inf")}}, "data.tasks.a.std: a number"),
        ({"a": ""}, "data.tasks.a: name the column"),
        ({"a": {"kind": "labels", "separator": ""}}, "data.tasks.a.separator"),
    ],
)
def test_a_task_that_makes_no_sense_is_refused(given: object, said: str) -> None:
    with pytest.raises(UserError, match=said):
        read_tasks(given)
