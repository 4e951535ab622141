"""The record of a round: bytes, who took part, means over sites."""

from __future__ import annotations

from dataclasses import replace

import pytest
from flwr.app import Array

from fedstrata.protocol.task_kinds import TaskKind
from server_app.rounds.contribution import Contribution
from server_app.rounds.records import (
    RoundRecord,
    named_measures,
    participation,
    task_metrics,
    weighted_mean,
)
from tests.helpers.members import member, round_report


def array(size: int) -> Array:
    return Array(dtype="uint8", shape=(size,), stype="safetensors", data=b"x" * size)


def test_bytes_are_counted_by_group_and_coded_groups_are_named_at_zero() -> None:
    record = RoundRecord(1)
    record.count_down({"common": array(5), "task/grade": array(3), "task/stage": array(4)}, ["x"])
    record.count_down({"common": array(5)}, [])
    assert record.bytes_down == {"common": 10, "task": 7, "x": 0}
    record.count_up({"task/grade": Contribution({"a": 1}, {}, 6)})
    assert record.bytes_up == {"task": 6}


def test_the_bytes_of_an_attempt_that_failed_count() -> None:
    before, after = RoundRecord(1, bytes_up={"common": 5}), RoundRecord(1, bytes_up={"common": 2})
    after.count_attempt(before)
    assert after.bytes_up == {"common": 7}


def test_participants_are_sorted_whatever_came_first() -> None:
    record = RoundRecord(1)
    for name in ("south", "north"):
        record.took_part([(member(name), round_report(name))])
    assert record.participants == ["north", "south"]
    assert list(record.sites) == ["north", "south"]


def test_a_site_that_measured_nothing_has_no_measures() -> None:
    record = RoundRecord(2, evaluated=False)
    report = round_report("north")
    record.took_part([(member("north"), replace(report, metrics={}))])
    record.took_part([(member("south"), replace(report, site="south"))])
    assert record.to_dict()["evaluated"] is False
    entry, measured = record.sites["north"], record.sites["south"]
    assert measured.keys() - entry.keys() >= {"examples", "loss", "accuracy", "validation"}
    assert entry["train_loss"] == report.loss
    assert task_metrics({"north": entry}) == {}


def test_each_round_says_what_a_site_did() -> None:
    one = RoundRecord(1, participants=["a"], late={"b": "slow"}).to_dict()
    two = RoundRecord(2, participants=["b"], refused={"a": "bad"}).to_dict()
    assert participation([one, two], ["c"]) == {
        "a": ["took part", "refused"],
        "b": ["late", "took part"],
        "c": ["not asked", "not asked"],
    }


def test_means_weigh_by_examples_and_the_worst_site_is_named() -> None:
    sites = {
        "a": {"task": "t", "accuracy": 1.0, "examples": 3.0},
        "b": {"task": "t", "accuracy": 0.0, "examples": 1.0},
    }
    summary = task_metrics(sites)["t"]
    assert summary["accuracy"] == pytest.approx(0.75)
    assert summary["worst"] == {"site": "b", "accuracy": 0.0}
    assert summary["spread"] == pytest.approx(0.5)
    assert weighted_mean([{"loss": None, "examples": 1}], "loss") is None


def test_the_worst_site_of_numbers_has_the_largest_error() -> None:
    row = {"task": "age", "kind": "number", "unit": "years", "loss": 1.0, "rmse": 1.0, "r2": None}
    sites = {"a": {**row, "mae": 6.0, "examples": 3.0}, "b": {**row, "mae": 9.0, "examples": 1.0}}
    summary = task_metrics(sites)["age"]
    assert summary["mae"] == pytest.approx(6.75)
    assert summary["worst"] == {"site": "b", "mae": 9.0}
    assert (summary["kind"], summary["unit"], summary["r2"]) == ("number", "years", None)


def test_numbers_of_single_outputs_have_the_outputs_names() -> None:
    kind = TaskKind("labels")
    values = {"examples": 4.0, "auroc": 0.5, "auroc/0": 0.25, "auroc/1": None}
    named = named_measures(member(classes=("edema", "mass"), kind=kind), values)
    assert named == {"examples": 4.0, "auroc": 0.5, "by_output": {"edema": 0.25, "mass": None}}


def test_a_site_without_the_leading_measure_is_in_no_mean() -> None:
    assert task_metrics({"a": {"task": "t", "kind": "labels", "auroc": None}}) == {}
