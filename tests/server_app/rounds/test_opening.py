"""Before round 1 a method may ask all sites for something once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from flwr.app import Message

from fedstrata.protocol import answers, cohort_answers, kinds
from fedstrata.support.errors import UserError
from tests.helpers.runs import SMALL, Crash, states
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
