"""A site that waits for its person's approval: the run goes on without it, and takes it in later."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message

from fedstrata.protocol import answers, kinds
from fedstrata.protocol.limits import NotNow
from fedstrata.support.errors import UserError
from server_app import patience
from site_guard.answers import round_of
from site_guard.approvals import Approvals, request_of
from site_guard.plan_rules import read_plan
from tests.helpers.runs import PLAIN, grid_of
from tests.helpers.tampering import kinds_to, of_round
from tests.loopback import simulate

ASKS = 102  # the node of the site that asks its person
SITE = "site-02"
ROUNDS = [*PLAIN, "strategy.rounds=3", "strategy.min_sites=3"]


@pytest.fixture(autouse=True)
def asked_again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "SAY_EVERY", 0.0)


@pytest.fixture
def approvals(tmp_path: Path) -> Approvals:
    return Approvals(tmp_path / "guard" / "approvals", SITE)


def asking(approvals: Approvals, person: Callable[[Message], None]) -> Any:
    """Return what a site's process does with ``approve: ask``; the person looks at every message."""

    def tamper(message: Message, reply: Message) -> Message:
        person(message)
        if message.metadata.dst_node_id != ASKS:
            return reply
        text, plan = read_plan(message)
        request = request_of(1, text, plan, b"bundle", "", datetime.now(UTC))
        try:
            approvals.require(request, b"bundle", message.metadata.message_type)
        except NotNow as error:
            return answers.failure(message, SITE, round_of(message), str(error), later=True)
        return reply

    return tamper


def test_the_run_goes_on_without_it_and_takes_it_in_once_it_is_allowed(
    tmp_path: Path, approvals: Approvals, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="flwr")

    def allow_in_round_2(message: Message) -> None:
        if of_round(message) == 2:
            for request in approvals.requests():
                approvals.allow(request, until=None, rounds=None)

    grid = grid_of(tmp_path, asking(approvals, allow_in_round_2))
    results, _ = simulate(tmp_path, "faces", ROUNDS, grid=grid)
    first, *_, last = results["rounds"]
    assert SITE not in first["participants"]
    assert first["absent"][SITE].startswith(f"waiting for approval at {SITE} (request ")
    assert SITE in last["participants"]
    assert SITE in results["final"]["sites"]
    assert f"site {SITE} (node {ASKS}) does not take part yet: waiting for approval" in caplog.text
    assert f"site {SITE} joined" in caplog.text


def test_until_it_is_allowed_it_is_asked_who_it_is_and_nothing_more(
    tmp_path: Path, approvals: Approvals
) -> None:
    grid = grid_of(tmp_path, asking(approvals, lambda _: None))
    results, _ = simulate(tmp_path, "faces", ROUNDS, grid=grid)
    assert kinds_to(grid, ASKS) == {kinds.QUERY}
    assert all(len(record["participants"]) == 3 for record in results["rounds"])


def test_where_it_is_needed_the_run_waits_for_it(tmp_path: Path, approvals: Approvals) -> None:
    looked: list[Message] = []

    def allow_at_the_fifth_look(message: Message) -> None:
        looked.append(message)
        if sum(m.metadata.dst_node_id == ASKS for m in looked) == 5:
            for request in approvals.requests():
                approvals.allow(request, until=None, rounds=None)

    grid = grid_of(tmp_path, asking(approvals, allow_at_the_fifth_look))
    results, _ = simulate(tmp_path, "faces", [*ROUNDS, "strategy.min_sites=4"], grid=grid)
    assert all(len(record["participants"]) == 4 for record in results["rounds"])


def test_a_run_that_is_not_allowed_in_time_ends_and_says_what_it_waited_for(
    tmp_path: Path, approvals: Approvals
) -> None:
    grid = grid_of(tmp_path, asking(approvals, lambda _: None))
    needed = [*ROUNDS, "strategy.min_sites=4", "strategy.join_timeout=2"]
    with pytest.raises(UserError, match=f"waiting for approval at {SITE}"):
        simulate(tmp_path, "faces", needed, grid=grid)
