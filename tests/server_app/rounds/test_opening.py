"""Before round 1 a method may ask all sites for something once."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import torch
from flwr.app import Message

from fedstrata.protocol import answers, cohort_answers, kinds
from fedstrata.support.errors import UserError
from tests.helpers.runs import DOCS, SMALL, Crash, states
from tests.loopback import simulate

DBE = [*SMALL, "method=dbe"]


def sent(grid_messages: list[Message], kind: str) -> list[Message]:
    return [message for message in grid_messages if message.metadata.message_type == kind]


def test_every_site_is_asked_once_and_what_came_of_it_stays(tmp_path: Path) -> None:
    seen: dict[str, list[set[str]]] = {}

    def note(message: Message, reply: Message) -> Message:
        seen.setdefault(message.metadata.message_type, []).append(set(answers.read_payloads(reply)))
        return reply

    results, grid = simulate(tmp_path, "faces", DBE, sites=2, tamper=note)
    assert seen[kinds.OPEN] == [{"means"}] * 2
    assert seen[kinds.TRAIN] == [{"common"}] * 4  # of two rounds: the mean is not sent again
    mean = states(tmp_path, results["run"])["state/means//extras.mean"]
    assert mean.abs().sum() > 0
    for order in sent(grid.sent, kinds.TRAIN):
        assert mean.numpy().tobytes() in order.content["layers"]["means"].data  # type: ignore[index]


def test_results_say_what_was_asked_before_round_1(tmp_path: Path) -> None:
    late: list[str] = []

    def tamper(message: Message, reply: Message) -> Message:
        if message.metadata.message_type != kinds.OPEN:
            return reply
        site = cohort_answers.reporting_site(reply)
        if site == "site-02":
            return answers.failure(message, site, 0, "out of order")
        if site == "site-01" and not late:
            late.append(site)
            reason = "training may begin here at 20:00-06:00"
            return answers.failure(message, site, 0, reason, later=True)
        return reply

    results, grid = simulate(tmp_path, "faces", DBE, sites=3, tamper=tamper)
    asked = [message.metadata.dst_node_id for message in sent(grid.sent, kinds.OPEN)]
    assert asked == [100, 101, 102, 101]  # who was outside its hours is asked again, alone
    first, second = results["rounds"]
    opening = first["opening"]
    assert opening["groups"] == ["means"]
    assert opening["participants"] == ["site-00", "site-01"]
    assert opening["refused"] == {"site-02": "out of order"}
    assert opening["bytes_up"].keys() == {"means"}
    for way in ("bytes_down", "bytes_up"):
        more = sum(first[way].values()) - sum(second[way].values())
        assert more == sum(opening[way].values()) > 0
    assert "opening" not in second
    schema = json.loads((DOCS / "results.schema.json").read_text())
    jsonschema.validate(results, schema)


def test_a_site_that_stays_outside_its_hours_is_given_up_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def closed(message: Message, reply: Message) -> Message:
        site = cohort_answers.reporting_site(reply)
        if message.metadata.message_type != kinds.OPEN or site != "site-01":
            return reply
        return answers.failure(message, site, 0, "training may begin at 20:00", later=True)

    caplog.set_level("INFO", "flwr")
    overrides = [*DBE, "strategy.give_up=0.2", "strategy.rounds=1"]
    results, _ = simulate(tmp_path, "faces", overrides, sites=2, tamper=closed)
    assert results["rounds"][0]["opening"]["refused"] == {"site-01": "training may begin at 20:00"}
    assert results["rounds"][0]["participants"] == ["site-00", "site-01"]
    assert "before round 1: asked again later: site-01: training may" in caplog.text
    assert "gave up on site-01 after 0.2 s (strategy.give_up); the run goes on" in caplog.text


def test_a_resumed_run_keeps_what_it_opened_with(tmp_path: Path) -> None:
    whole, _ = simulate(tmp_path / "whole", "faces", DBE, sites=2)

    def crash(message: Message, reply: Message) -> Message:
        if message.metadata.message_type == kinds.TRAIN and message.metadata.group_id == "2":
            raise Crash
        return reply

    with pytest.raises(Crash):
        simulate(tmp_path / "broken", "faces", DBE, sites=2, tamper=crash, name="run")
    resumed, grid = simulate(tmp_path / "broken", "faces", DBE, sites=2, resume="run")
    assert not sent(grid.sent, kinds.OPEN)
    assert resumed["rounds"][0]["opening"]["participants"] == ["site-00", "site-01"]
    expected, found = (
        states(tmp_path / folder, results["run"])
        for folder, results in (("whole", whole), ("broken", resumed))
    )
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_a_cohort_opens_with_the_sum_over_its_sites(tmp_path: Path) -> None:
    nodes, _ = simulate(tmp_path / "nodes", "faces", DBE, sites=4)
    cohorts, _ = simulate(tmp_path / "cohorts", "faces", [*DBE, "cohort.sites=2"], sites=2)
    one, other = (
        states(tmp_path / folder, results["run"])["state/means//extras.mean"]
        for folder, results in (("nodes", nodes), ("cohorts", cohorts))
    )
    assert torch.equal(one, other)


def test_without_enough_answers_nothing_is_trained(tmp_path: Path) -> None:
    def spoiled(message: Message, reply: Message) -> Message:
        if message.metadata.message_type != kinds.OPEN:
            return reply
        return answers.failure(message, cohort_answers.reporting_site(reply), 0, "out of order")

    with pytest.raises(UserError, match="0 of 2 sites sent what method dbe needs"):
        simulate(tmp_path, "faces", DBE, sites=2, tamper=spoiled)


def test_nothing_can_be_configured_of_a_group_that_is_asked_for_once(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="asks for group 'means' once, before round 1"):
        simulate(tmp_path, "faces", [*DBE, "+strategy.minimum.means=2"], sites=2)
