"""Whole runs over a loopback: results as documented, faults that cost one contribution, resuming."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from flwr.app import ConfigRecord, Message

from fedstrata.protocol import answers, kinds
from fedstrata.report.page import report_page
from fedstrata.runs.results import read_results
from fedstrata.runs.standing import tasks_of
from fedstrata.support.errors import UserError
from tests.helpers.data_files import medmnist_files
from tests.helpers.runs import DOCS, GROUPS, SMALL, Crash, same, states, without_times
from tests.helpers.tampering import one_in, silent, with_report
from tests.loopback import LoopbackGrid, failed, simulate


def test_results_follow_the_documented_schema(tmp_path: Path) -> None:
    overrides = [*SMALL, *GROUPS, "baselines.alone=true"]
    results, _ = simulate(tmp_path, "faces", overrides, sites=4)
    schema = json.loads((DOCS / "results.schema.json").read_text())
    jsonschema.validate(results, schema)
    assert [entry["round"] for entry in results["rounds"]] == [1, 2]
    assert set(results["rounds"][0]["bytes_up"]) == {"common", "task"}
    assert set(results["final"]["tasks"]) == {"gender", "pose"}
    assert set(results["final"]["sites"]) == {f"site-0{i}" for i in range(4)}
    assert [row["group"] for row in results["partition"]["pose"]] == [
        "pretrained",
        "common",
        "task",
        "personal",
    ]
    words = (DOCS / "results.md").read_text()
    numerics = results["rounds"][0]["sites"]["site-00"]["numerics"]
    assert numerics["threads"] == 1
    named = [*results, *results["rounds"][0], *results["final"], *numerics]
    assert not [name for name in named if f"`{name}" not in words and f"{name}`" not in words]


def with_nan(_: Message, reply: Message) -> Message:
    payload = bytearray(answers.read_payloads(reply)["common"])
    payload[-4:] = b"\x00\x00\xc0\x7f"
    reply.content["layers"]["common"] = kinds.payload_array(bytes(payload))  # type: ignore[index]
    return reply


@pytest.mark.parametrize(
    ("change", "where", "reason"),
    [
        (with_report(round=7), "refused", "answers round 7"),
        (with_report(examples=10**9), "refused", "announced 24"),
        (with_nan, "refused", "not finite"),
        (silent, "late", "no answer"),
        (lambda message, _: failed(message, code=5), "absent", "gone"),
        (lambda message, _: failed(message, code=2), "refused", "gone"),
    ],
)
def test_one_bad_answer_costs_that_contribution_alone(
    tmp_path: Path, change: Any, where: str, reason: str
) -> None:
    tamper = one_in(1, "site-02", change)
    overrides = [*SMALL, *GROUPS, "strategy.deadline=8"]
    results, _ = simulate(tmp_path, "faces", overrides, tamper=tamper)
    first, second = results["rounds"]
    assert first["participants"] == ["site-00", "site-01", "site-03"]
    assert reason in first[where]["site-02"]
    assert second["participants"] == ["site-00", "site-01", "site-02", "site-03"]
    assert not second["refused"] | second["late"] | second["absent"]


def test_a_task_that_nobody_answered_for_keeps_its_state(tmp_path: Path) -> None:
    def tamper(message: Message, reply: Message) -> Message | None:
        training = message.metadata.message_type == kinds.TRAIN
        return None if training and message.metadata.dst_node_id in (101, 103) else reply

    overrides = [*SMALL, *GROUPS, "strategy.rounds=1", "strategy.deadline=4"]
    results, _ = simulate(tmp_path, "faces", overrides, tamper=tamper)
    assert results["rounds"][0]["kept"] == {"task/pose": "no update"}
    after = states(tmp_path, results["run"])
    heads = [after[f"state/task/{task}//head.0.weight"] for task in ("gender", "pose")]
    assert not torch.equal(*heads)


def test_when_every_site_is_refused_the_run_says_why(tmp_path: Path) -> None:
    def tamper(message: Message, reply: Message) -> Message:
        training = message.metadata.message_type == kinds.TRAIN
        return with_report(error="disk full")(message, reply) if training else reply

    with pytest.raises(UserError, match="disk full"):
        simulate(tmp_path, "faces", [*SMALL, *GROUPS], tamper=tamper)


@pytest.mark.parametrize("optimizer", ["fedavg", "fedadam"])
def test_a_resumed_run_ends_with_the_same_bits(tmp_path: Path, optimizer: str) -> None:
    overrides = [
        *SMALL,
        *GROUPS,
        "groups.personal=[head.out, 'type:BatchNorm2d']",
        "strategy.rounds=4",
        "strategy.fraction=0.5",
        f"aggregator@strategy.aggregators.common={optimizer}",
    ]

    def dies(message: Message, reply: Message) -> Message:
        if message.metadata.message_type == kinds.TRAIN and message.metadata.group_id == "3":
            raise Crash
        return reply

    whole, _ = simulate(tmp_path / "whole", "faces", overrides)
    with pytest.raises(Crash):
        simulate(tmp_path / "cut", "faces", overrides, tamper=dies)
    resumed, _ = simulate(tmp_path / "cut", "faces", overrides, resume="latest")
    assert same(states(tmp_path / "whole", whole["run"]), states(tmp_path / "cut", resumed["run"]))
    assert without_times(whole) == without_times(resumed)


def test_a_named_run_begins_once_and_is_resumed_then(tmp_path: Path) -> None:
    named = {"name": "kept", "resume": "auto"}
    whole, _ = simulate(tmp_path / "whole", "faces", SMALL, sites=2)
    calls = 0

    def dies(message: Message, reply: Message) -> Message:
        nonlocal calls
        calls += message.metadata.message_type == kinds.TRAIN
        if calls == 3:  # in the second round
            raise Crash
        return reply

    with pytest.raises(Crash):
        simulate(tmp_path, "faces", SMALL, sites=2, tamper=dies, **named)
    resumed, _ = simulate(tmp_path, "faces", SMALL, sites=2, **named)
    assert resumed["run"] == "kept"
    assert without_times(whole) == without_times(resumed)
    with pytest.raises(UserError, match="resume='auto'"):
        simulate(tmp_path, "faces", SMALL, sites=2, name="kept")
    with pytest.raises(UserError, match="give name"):
        simulate(tmp_path, "faces", SMALL, sites=2, resume="auto")
    with pytest.raises(UserError, match="letters"):
        simulate(tmp_path, "faces", SMALL, sites=2, name="../kept")


def test_resuming_with_another_configuration_names_the_key(tmp_path: Path) -> None:
    simulate(tmp_path, "faces", SMALL, sites=2)
    with pytest.raises(UserError, match=r"train\.batch_size: was 8, now 4"):
        simulate(tmp_path, "faces", [*SMALL, "train.batch_size=4"], sites=2, resume="latest")
    with pytest.raises(UserError, match="no run 'facez'"):
        simulate(tmp_path, "faces", SMALL, sites=2, resume="facez")
    with pytest.raises(UserError, match="no run of experiment 'har'"):
        simulate(tmp_path, "har", [], sites=2, resume="latest")


def test_two_nodes_under_one_name_are_reported_so(tmp_path: Path) -> None:
    node = {"site": "clinic", "partition-id": 0, "num-partitions": 2}
    grid = LoopbackGrid({1: dict(node), 2: dict(node)}, {"output-dir": str(tmp_path)})
    with pytest.raises(UserError, match="two nodes call themselves 'clinic'"):
        simulate(tmp_path, "faces", SMALL, grid=grid)


def test_sites_whose_shapes_differ_are_reported_by_name_before_round_1(tmp_path: Path) -> None:
    nodes = {i: {"partition-id": i, "num-partitions": 2} for i in range(2)}
    grid = LoopbackGrid(nodes, {"output-dir": str(tmp_path)})
    odd = {"fc1.weight": "float32[16, 9]"}

    def tamper(message: Message, reply: Message) -> Message:
        report = json.loads(str(reply.content["report"]["json"]))
        if report["site"] == "site-01" and "fingerprints" in report:
            report["fingerprints"]["common"] = "0" * 64
            report["schemas"]["common"] |= odd
            reply.content["report"] = ConfigRecord({"json": json.dumps(report)})
        return reply

    grid.tamper = tamper
    overrides = [*SMALL, "data.tasks=[gender]", "model=mlp", "model.hidden=[16]"]
    with pytest.raises(UserError, match=r"site-01: group 'common' does not fit.*fc1\.weight"):
        simulate(tmp_path, "faces", overrides, grid=grid)
    assert not [m for m in grid.sent if m.metadata.message_type == kinds.TRAIN]


def test_heads_of_other_widths_cannot_be_common(tmp_path: Path) -> None:
    root = medmnist_files(tmp_path / "data", two=2, three=3)
    overrides = ["groups=all_common", "strategy.rounds=1", "strategy.poll=0.01"]
    with pytest.raises(UserError, match=r"head\.out\.weight.*put these tensors into task"):
        simulate(tmp_path / "o", "medmnist", overrides, sites=2, data_root=str(root))
    good = ["strategy.rounds=1", "strategy.poll=0.01", "baselines.alone=false"]
    results, _ = simulate(tmp_path / "o", "medmnist", good, sites=2, data_root=str(root))
    assert set(results["final"]["tasks"]) == {"two", "three"}


def test_frozen_layers_without_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="weights=none leaves them random"):
        simulate(tmp_path, "faces", [*SMALL, "groups.pretrained=[conv1]"], sites=2)


def test_what_an_aggregator_made_of_the_updates_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    trimmed = "aggregator@strategy.aggregators.common=trimmed_mean"
    simulate(tmp_path, "faces", [*SMALL, trimmed])
    said = [r.message for r in caplog.records if "nothing to cut from 4 updates" in r.message]
    assert [line.split(": ")[:2] for line in said] == [["round 1", "common"], ["round 2", "common"]]


def test_rounds_that_are_not_evaluated_say_so_and_every_view_shows_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    overrides = [*SMALL, "strategy.rounds=4", "strategy.evaluate_every=3", "tracker=tensorboard"]
    results, _ = simulate(tmp_path, "faces", overrides, sites=2)
    jsonschema.validate(results, json.loads((DOCS / "results.schema.json").read_text()))
    assert [each["evaluated"] for each in results["rounds"]] == [True, False, False, True]
    lines = [line for line in caplog.messages if line.startswith("round ")]
    assert ["as received" in line for line in lines] == [True, False, False, True]
    assert ["not evaluated" in line for line in lines] == [False, True, True, False]
    assert results["best"]["round"] in (3, 4)
    (gender, _) = tasks_of(results)
    assert len(gender.values) == 3
    assert "in rounds 1, 4, 7 and so on" in report_page([read_results(tmp_path / results["run"])])
