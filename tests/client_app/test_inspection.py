"""What a site would train on and say, before any run."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np

from client_app.inspection import added, inspect, share_of
from fedstrata.protocol.answers import to_json
from fedstrata.protocol.task_kinds import TaskKind
from models.training.data import ArrayInputs, SiteData, Split
from tests.helpers.site_contexts import opened, plan_of


def of_kind(kind: str, labels: np.ndarray) -> SiteData:
    split = Split(ArrayInputs(np.zeros((len(labels), 2), np.float32)), labels)
    return SiteData("north", "task", ("a", "b"), (2,), split, split, split, TaskKind(kind))


def test_a_site_that_could_join_says_what_it_would_say_to_the_server() -> None:
    plan = plan_of()
    found = inspect(opened(plan).node, plan)
    shown = found.as_dict()
    assert found.errors == []
    assert (shown["site"], shown["task"], shown["kind"]) == ("site-00", "gender", "classes")
    assert sum(shown["examples"]["train"].values()) == shown["leaves"]["examples"]["train"] == 24


def test_what_leaves_has_the_digits_and_fields_of_the_wire() -> None:
    plan = plan_of()
    found = inspect(opened(plan).node, plan)
    assert found.report is not None
    found.report = replace(found.report, baseline={"accuracy": 0.123456789})
    left = found.as_dict()["leaves"]
    assert left == json.loads(to_json(found.report))
    assert left["baseline"] != found.report.baseline
    assert "later" not in left


def test_a_mistake_is_among_the_errors_and_what_leaves_of_it_is_said() -> None:
    plan = plan_of()
    plan = replace(plan, data={**plan.data, "size": -1})
    found = inspect(opened(plan_of()).node, plan)
    shown = found.as_dict()
    assert len(shown["errors"]) == 1
    assert shown["leaves"] == {"error": shown["errors"][0]}
    assert (shown["task"], shown["classes"], shown["examples"]) == (None, [], {})


def test_examples_are_counted_by_class() -> None:
    data = of_kind("classes", np.array([0, 1, 1]))
    assert data.counts()["train"] == {"a": 1, "b": 2}


def test_of_labels_those_are_counted_that_hold() -> None:
    data = of_kind("labels", np.array([[1, 0], [1, np.nan], [0, 1]], np.float32))
    assert data.counts()["test"] == {"a": 2, "b": 1}


def test_numbers_have_no_classes() -> None:
    data = of_kind("number", np.array([[1.0, 2.0]], np.float32))
    assert data.counts() == {"train": 1, "validation": 1, "test": 1}


def test_examples_of_several_sites_are_added() -> None:
    each = [{"train": {"a": 1}}, {"train": {"a": 2, "b": 3}}]
    assert added(each) == {"train": {"a": 3, "b": 3}}
    assert added([{"train": 1}, {"train": 2}]) == {"train": 3}


def test_a_share_has_its_own_index() -> None:
    node = share_of(opened(plan_of()).node, 2, 5)
    assert (node.index, node.count) == (2, 5)
