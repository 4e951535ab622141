"""Whether a site fits its task: judged on plain values."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from fedstrata.protocol.task_kinds import TaskKind
from models.networks import build
from server_app.rounds.admission import (
    Admission,
    classes_problem,
    described_schema,
    layers_problem,
    rejections,
    schema_difference,
    scopes_problem,
)
from server_app.sites.members import RejectedSite
from tests.helpers.members import site_report
from tests.helpers.partitions import partition_of
from tests.helpers.site_contexts import plan_of

GROUPS = {"common": ["fc1"], "task": ["head"]}
NETWORK = build("mlp", input_shape=(6,), classes=2, head=[], hidden=[5])
PARTITION = partition_of(NETWORK, GROUPS)
FINGERPRINTS = {group: PARTITION.fingerprint(group) for group in ("common", "task")}


def test_other_classes_than_the_first_sites_are_a_problem() -> None:
    reference = site_report("south")
    assert classes_problem("grade", site_report(), reference) is None
    problem = classes_problem("grade", site_report(classes=("a", "b")), reference)
    assert problem == (
        "task 'grade' has the classes a, b here, but low, high at south: configure data.classes"
    )


def test_layers_of_another_shape_are_named() -> None:
    assert layers_problem(site_report(fingerprints=FINGERPRINTS), PARTITION, "south") is None
    schema = described_schema(PARTITION.schema("common"))
    other = {**schema, "fc1.bias": "float32[9]"}
    report = site_report(
        fingerprints={**FINGERPRINTS, "common": "0" * 64}, schemas={"common": other}
    )
    problem = layers_problem(report, PARTITION, "south")
    assert problem is not None
    assert "group 'common' does not fit that of south: fc1.bias is float32[9] here" in problem


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": "labels", "mean": (), "std": ()}, "is of labels here, but of number at south"),
        ({"mean": (40.0,)}, "has the mean [40] here, but [50] at south: write data.tasks.age.mean"),
        ({"std": (8.0,)}, "has the std [8] here, but [9.5] at south"),
        ({"unit": "months"}, "has the unit 'months' here, but 'years' at south"),
        ({"loss": "huber"}, "has the loss 'huber' here, but 'mse' at south"),
    ],
)
def test_sites_of_one_task_predict_the_same(changes: dict[str, Any], said: str) -> None:
    kind = TaskKind("number", mean=(50.0,), std=(9.5,), unit="years")
    reference = site_report("south", kind=kind, classes=("age",))
    same = site_report(kind=kind, classes=("age",))
    assert classes_problem("age", same, reference) is None
    problem = classes_problem("age", replace(same, kind=replace(kind, **changes)), reference)
    assert problem is not None
    assert said in problem
    other = classes_problem("age", replace(same, classes=("days",)), reference)
    assert other == (
        "task 'age' has the numbers days here, but age at south: configure data.classes"
    )


def test_who_comes_after_the_scale_is_agreed_fits_those_that_came_before() -> None:
    before = site_report("south", "age", kind=TaskKind("number"), classes=("age",))
    plan = replace(plan_of(), agreed={"targets": {"age": {"mean": [50.0], "std": [9.5]}}})
    asked: list[str] = []
    nobody: Any = SimpleNamespace(members={}, newcomers={}, change_plan=asked.append)
    unused: Any = None
    admission = Admission(nobody, unused, plan, {}, False, print, references={"age": before})
    admission.change_scale(plan)
    assert asked == [plan.to_json()]
    kind = TaskKind("number", mean=(50.0,), std=(9.5,))
    late = site_report("north", "age", kind=kind, classes=("age",))
    assert classes_problem("age", late, before) is not None
    assert classes_problem("age", late, admission.references["age"]) is None


def test_a_task_of_another_shape_cannot_share_what_is_for_all_sites() -> None:
    state = {name: NETWORK.state_dict()[name] for name in PARTITION.exchanged_names("common")}
    assert scopes_problem("grade", PARTITION, {"common": state}) is None
    wide = partition_of(build("mlp", input_shape=(9,), classes=2, head=[], hidden=[5]), GROUPS)
    problem = scopes_problem("stage", wide, {"common": state})
    assert problem is not None
    assert "task 'stage' needs another shape: fc1.weight is" in problem


def test_a_difference_names_three_tensors_and_counts_the_rest() -> None:
    mine = {f"t{i}": "float32[1]" for i in range(5)}
    text = schema_difference(mine, {})
    assert text.count("missing here") == 3
    assert text.endswith("and 2 more")


def test_rejected_sites_are_listed_by_reason() -> None:
    rejected = [
        RejectedSite(1, "b", "no data"),
        RejectedSite(2, "a", "no data"),
        RejectedSite(3, "", "no name"),
    ]
    assert rejections(rejected) == (
        "these sites cannot take part:\n  a, b: no data\n  node 3: no name"
    )
