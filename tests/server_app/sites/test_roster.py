"""A roster binds names and tasks to nodes: impostors are refused as unauthorized, and the run goes on."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from flwr.app import ConfigRecord, Message

from fedstrata.protocol import kinds
from fedstrata.support.audit_check import read_and_verify
from fedstrata.support.errors import UserError
from server_app.sites.roster_file import VARIABLE
from tests.helpers.keys import new_key
from tests.helpers.runs import DOCS, GROUPS, SMALL, same, states
from tests.helpers.tampering import kinds_to, with_report
from tests.loopback import LoopbackGrid, simulate

TASKS = {"hospital-a": "gender", "hospital-b": "pose", "hospital-c": "gender"}
NODE = {"hospital-a": 101, "hospital-b": 102, "hospital-c": 103}
KEY = {site: new_key() for site in TASKS}
QUICK = [*SMALL, *GROUPS, "strategy.join_timeout=2", "strategy.min_sites=2"]


@pytest.fixture
def roster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "roster.yaml"
    sites = {
        site: {"task": task, "node-id": NODE[site], "public-key": KEY[site]}
        for site, task in TASKS.items()
    }
    path.write_text(yaml.safe_dump({"sites": sites}))
    monkeypatch.setenv(VARIABLE, str(path))
    return path


def node(site: str, index: int) -> dict[str, Any]:
    return {"site": site, "partition-id": index, "num-partitions": 3}


def grid_of(output: Path, **others: dict[str, Any]) -> LoopbackGrid:
    """Return the three hospitals, and other nodes by ``n<id>``, which may be one of theirs."""
    nodes = {NODE[site]: node(site, index) for index, site in enumerate(TASKS)}
    nodes |= {int(name[1:]): config for name, config in others.items()}
    return LoopbackGrid(nodes, {"output-dir": str(output)})


def test_the_hospitals_of_the_roster_take_part(
    tmp_path: Path, roster: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    results, _ = simulate(tmp_path, "faces", QUICK, grid=grid_of(tmp_path))
    assert list(results["sites"]) == list(TASKS)
    assert {n: site["task"] for n, site in results["sites"].items()} == TASKS
    assert not any(entry["unauthorized"] for entry in results["rounds"])
    assert "roster: 3 sites, bound to their keys" in caplog.text


def test_without_a_roster_the_log_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    simulate(tmp_path, "faces", QUICK, grid=grid_of(tmp_path))
    assert caplog.text.count("each site is who it says it is") == 1


IMPOSTORS = {
    "another site's name": (102, node("hospital-a", 1), "but its key SHA256:.* belongs to .*-b'"),
    "a name of nobody": (102, node("hospital-x", 1), "'hospital-x', but its key .* belongs to"),
    "not on the roster": (666, node("hospital-a", 0), "'hospital-a', but the roster has no site"),
    "another task": (
        102,
        node("hospital-b", 0),
        "as 'hospital-b', the task 'gender', .* says 'pose'",
    ),
}


@pytest.mark.parametrize("case", IMPOSTORS)
def test_who_is_not_what_the_roster_says_is_rejected_and_the_run_goes_on(
    tmp_path: Path, roster: Path, caplog: pytest.LogCaptureFixture, case: str
) -> None:
    node_id, config, reason = IMPOSTORS[case]
    caplog.set_level(logging.INFO)
    grid = grid_of(tmp_path, **{f"n{node_id}": config})
    results, _ = simulate(tmp_path, "faces", QUICK, grid=grid)
    jsonschema.validate(results, json.loads((DOCS / "results.schema.json").read_text()))
    assert kinds_to(grid, node_id) == {kinds.QUERY}
    first, second = results["rounds"]
    assert list(first["unauthorized"]) == [str(node_id)]
    assert not second["unauthorized"]
    (line,) = [r.message for r in caplog.records if "is refused as unauthorized" in r.message]
    assert line.startswith(f"node {node_id} is refused as unauthorized: it ")
    assert line.endswith(first["unauthorized"][str(node_id)])
    assert re.search(reason, line)
    real = {"hospital-a", "hospital-c"} | ({"hospital-b"} if node_id == 666 else set())
    assert set(first["participants"]) == set(second["participants"]) == real
    if node_id != 666:  # the site that the key belongs to is missing, and named
        assert first["absent"] == {"hospital-b": "connected, but not as itself"}
        assert results["participation"]["hospital-b"] == ["absent", "absent"]


@pytest.mark.parametrize(("node_id", "name"), [(102, "hospital-b"), (666, "node 666")])
def test_the_audit_log_has_an_impostors_answer_under_its_own_name(
    tmp_path: Path, roster: Path, monkeypatch: pytest.MonkeyPatch, node_id: int, name: str
) -> None:
    key = Ed25519PrivateKey.generate()
    path = tmp_path / "audit.key"
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    monkeypatch.setenv("FEDSTRATA_AUDIT_KEY", str(path))
    grid = grid_of(tmp_path / "out", **{f"n{node_id}": node("hospital-a", 1)})
    results, _ = simulate(tmp_path / "out", "faces", QUICK, grid=grid)
    lines = read_and_verify(tmp_path / "out" / results["run"] / "audit.jsonl").lines
    fields = [line.fields for line in lines if line.event == "arrived"]
    asked = [each["site"] for each in fields if each["kind"] == kinds.QUERY]
    assert sorted(asked) == sorted({*TASKS, name})


def test_an_impostor_cannot_take_a_site_s_place_in_mid_run(tmp_path: Path, roster: Path) -> None:
    whole, _ = simulate(tmp_path / "whole", "faces", QUICK, grid=grid_of(tmp_path / "whole"))
    grid = grid_of(tmp_path / "with")

    def joins(message: Message, reply: Message) -> Message:
        if message.metadata.message_type == kinds.TRAIN and message.metadata.group_id == "1":
            grid.nodes[200] = node("hospital-a", 2)  # with other data under the name
        return reply

    grid.tamper = joins
    results, _ = simulate(tmp_path / "with", "faces", QUICK, grid=grid)
    assert kinds_to(grid, 200) == {kinds.QUERY}
    assert kinds.TRAIN in kinds_to(grid, NODE["hospital-a"])
    assert results["rounds"][1]["unauthorized"]
    after = states(tmp_path / "with", results["run"])
    assert same(states(tmp_path / "whole", whole["run"]), after)


def test_without_a_roster_the_latest_node_under_a_name_counts(tmp_path: Path) -> None:
    grid = grid_of(tmp_path)

    def restarts(message: Message, reply: Message) -> Message:
        if message.metadata.message_type == kinds.TRAIN and message.metadata.group_id == "1":
            grid.nodes[200] = node("hospital-a", 0)
            grid.nodes.pop(NODE["hospital-a"], None)
        return reply

    grid.tamper = restarts
    results, _ = simulate(tmp_path, "faces", QUICK, grid=grid)
    assert kinds.TRAIN in kinds_to(grid, 200)
    assert "hospital-a" in results["rounds"][1]["participants"]


def test_an_outsider_s_error_neither_stops_the_run_nor_is_put_down_to_the_site(
    tmp_path: Path, roster: Path
) -> None:
    broken = {**node("hospital-a", 0), "device": "abacus"}
    results, grid = simulate(tmp_path, "faces", QUICK, grid=grid_of(tmp_path, n666=broken))
    assert set(results["rounds"][0]["participants"]) == set(TASKS)
    assert kinds_to(grid, 666) == {kinds.QUERY}


def test_a_site_s_own_error_is_reported_under_the_roster_s_name(
    tmp_path: Path, roster: Path
) -> None:
    grid = grid_of(tmp_path)

    def garbled(message: Message, reply: Message) -> Message:
        if message.metadata.dst_node_id == NODE["hospital-b"]:
            reply.content["report"] = ConfigRecord({"json": "junk"})
        return reply

    grid.tamper = garbled
    with pytest.raises(UserError, match=r"hospital-b: 'report' cannot be read"):
        simulate(tmp_path, "faces", QUICK, grid=grid)


def test_a_site_that_claims_another_s_name_in_an_answer_is_refused(
    tmp_path: Path, roster: Path
) -> None:
    grid = grid_of(tmp_path)

    def lies(message: Message, reply: Message) -> Message:
        mine = message.metadata.dst_node_id == NODE["hospital-b"]
        if mine and message.metadata.message_type == kinds.TRAIN:
            said = json.loads(str(reply.content["report"]["json"]))
            said["site"] = "hospital-a"
            reply.content["report"] = ConfigRecord({"json": json.dumps(said)})
        return reply

    grid.tamper = lies
    results, _ = simulate(tmp_path, "faces", QUICK, grid=grid)
    for entry in results["rounds"]:
        assert entry["participants"] == ["hospital-a", "hospital-c"]
        assert "answers as 'hospital-a'" in entry["refused"]["hospital-b"]


def test_nobody_waits_for_an_outsider_that_does_not_answer(tmp_path: Path, roster: Path) -> None:
    grid = grid_of(tmp_path, n666=node("hospital-a", 0))
    grid.tamper = lambda message, reply: None if message.metadata.dst_node_id == 666 else reply
    results, _ = simulate(tmp_path, "faces", [*QUICK, "strategy.join_timeout=60"], grid=grid)
    assert set(results["rounds"][0]["participants"]) == set(TASKS)


def test_enough_sites_do_not_wait_for_ever_for_one_that_is_silent(tmp_path: Path) -> None:
    grid = grid_of(tmp_path)
    silent = NODE["hospital-c"]
    grid.tamper = lambda message, reply: None if message.metadata.dst_node_id == silent else reply
    results, _ = simulate(tmp_path, "faces", [*QUICK, "strategy.deadline=1"], grid=grid)
    assert results["rounds"][0]["participants"] == ["hospital-a", "hospital-b"]


def test_a_missing_site_is_named_with_its_roster_entry(tmp_path: Path, roster: Path) -> None:
    grid = grid_of(tmp_path, n666=node("hospital-c", 2))
    del grid.nodes[NODE["hospital-c"]]
    said = (
        r"2 of at least 3 sites joined .*missing: hospital-c \(task gender, node 103, key "
        r"SHA256:\S+\): not connected since the run began(.|\n)*node 666 is refused as unauthorized"
    )
    with pytest.raises(UserError, match=said):
        simulate(tmp_path, "faces", [*QUICK, "strategy.min_sites=3"], grid=grid)


def test_a_missing_site_does_not_hide_that_all_the_others_refuse(
    tmp_path: Path, roster: Path
) -> None:
    grid = grid_of(tmp_path)
    del grid.nodes[NODE["hospital-c"]]

    def broken(message: Message, reply: Message) -> Message:
        training = message.metadata.message_type == kinds.TRAIN
        return with_report(error="the disk is full")(message, reply) if training else reply

    grid.tamper = broken
    with pytest.raises(
        UserError, match=r"no site could take part(.|\n)*hospital-a: the disk is full"
    ):
        simulate(tmp_path, "faces", QUICK, grid=grid)


def test_who_is_rejected_in_a_round_that_is_played_again_is_still_said(
    tmp_path: Path, roster: Path
) -> None:
    grid = grid_of(tmp_path)
    asked: list[int] = []

    def paused(message: Message, reply: Message) -> Message | None:
        if message.metadata.message_type != kinds.TRAIN or message.metadata.group_id != "2":
            return reply
        grid.nodes[666] = node("hospital-a", 0)
        asked.append(message.metadata.dst_node_id)
        return None if len(asked) <= 3 else reply

    grid.tamper = paused
    results, _ = simulate(tmp_path, "faces", [*QUICK, "strategy.deadline=3"], grid=grid)
    assert list(results["rounds"][1]["unauthorized"]) == ["666"]


def test_a_node_that_was_rejected_may_come_back_mended(tmp_path: Path, roster: Path) -> None:
    grid = grid_of(tmp_path, n103=node("hospital-a", 2))

    def mended(message: Message, reply: Message) -> Message:
        if message.metadata.message_type == kinds.TRAIN:
            number = message.metadata.group_id
            if number == "1":
                grid.nodes.pop(103, None)
            elif number == "2":
                grid.nodes[103] = node("hospital-c", 2)
        return reply

    grid.tamper = mended
    results, _ = simulate(tmp_path, "faces", [*QUICK, "strategy.rounds=4"], grid=grid)
    assert results["participation"]["hospital-c"][0] == "absent"
    assert results["participation"]["hospital-c"][-1] == "took part"


def test_a_node_that_is_rejected_is_asked_no_more_though_it_was_rejected_before(
    tmp_path: Path, roster: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Who is rejected is asked at every look, and there is time for a second one.
    monkeypatch.setattr("server_app.patience.SAY_EVERY", 0.0)
    monkeypatch.setattr("server_app.sites.joining.SETTLE", 1.0)
    grid = grid_of(tmp_path)
    asked: list[int] = []

    def changes(message: Message, reply: Message) -> Message:
        if message.metadata.dst_node_id != 103 or message.metadata.message_type != kinds.QUERY:
            return reply
        asked.append(103)
        said = {"error": "no data yet"} if len(asked) == 1 else {"site": "hospital-a"}
        return with_report(**said)(message, reply)

    grid.tamper = changes
    results, _ = simulate(tmp_path, "faces", QUICK, grid=grid)
    assert len(asked) == 2
    assert list(results["rounds"][0]["unauthorized"]) == ["103"]
