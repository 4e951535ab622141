"""Tests of the kinds of tasks."""

from __future__ import annotations

import pytest

from fedstrata.protocol.task_kinds import CLASSES, TaskKind
from fedstrata.support.errors import UserError


def test_a_task_is_of_classes_where_nothing_is_said() -> None:
    assert TaskKind().name == CLASSES


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"name": "regression"}, "no kind of task 'regression'"),
        ({"name": "number", "loss": "l1"}, "one of mse, huber, not 'l1'"),
        ({"name": "number", "mean": (1.0,)}, "as many of each"),
        ({"name": "number", "mean": (1.0,), "std": (0.0,)}, "every std above 0"),
    ],
)
def test_a_kind_that_makes_no_sense_is_refused(given: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        TaskKind(**given)  # type: ignore[arg-type]
