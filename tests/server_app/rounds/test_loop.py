"""Rounds go on with who is there, wait for who is needed, give up by name, and forget late answers."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from flwr.app import Message

from fedstrata.support.errors import UserError
from server_app import patience
from server_app.compose import compose
from server_app.report import participation_table
from server_app.rounds.records import participation
from tests.helpers.logs import lines
from tests.helpers.runs import DOCS, PLAIN, Crash, grid_of, same, states
from tests.helpers.tampering import of_round, one_in, silent, with_report
from tests.loopback import LoopbackGrid, simulate

# -- late answers ----------------------------------------------------------------------------------


class Held:
    """Holds the answer of one node to round 1, and hands it over in the next round."""

    def __init__(self, deliver: Callable[[LoopbackGrid, Message, Message], Message]) -> None:
        self.deliver, self.reply, self.message_id = deliver, None, ""
        self.grid: LoopbackGrid | None = None

    def __call__(self, message: Message, reply: Message) -> Message | None:
        if message.metadata.dst_node_id == 102 and of_round(message) == 1:
            self.reply, self.message_id = reply, message.metadata.message_id
            return None
        if message.metadata.dst_node_id == 102 and of_round(message) == 2:
            assert self.reply is not None
            assert self.grid is not None
            return self.deliver(self.grid, self.reply, reply)
        return reply


def played(folder: Path, tamper: Any, grid: LoopbackGrid | None = None) -> tuple[Any, LoopbackGrid]:
    grid = grid or grid_of(folder, tamper)
    return simulate(folder, "faces", [*PLAIN, "strategy.deadline=3"], grid=grid)


def test_a_late_answer_is_dropped_and_changes_no_bit(tmp_path: Path) -> None:
    def beside(grid: LoopbackGrid, late: Message, own: Message) -> Message:
        grid.replies[expected_items.message_id] = (
            late  # it arrives now, under its own question's id
        )
        return own

    expected_items = Held(beside)
    expected_items.grid = grid_of(tmp_path / "late", expected_items)
    late, grid = played(tmp_path / "late", expected_items, expected_items.grid)
    lost, _ = played(tmp_path / "lost", one_in(1, "site-02", silent))
    assert late["participation"]["site-02"] == ["late", "took part"]
    assert expected_items.message_id in grid.replies  # nobody ever asked for it again
    after = states(tmp_path / "late", late["run"])
    assert same(after, states(tmp_path / "lost", lost["run"]))
    without, _ = played(tmp_path / "all", lambda _, reply: reply)
    assert not same(after, states(tmp_path / "all", without["run"]))  # it would have counted


def test_a_late_answer_in_place_of_the_next_one_is_refused(tmp_path: Path) -> None:
    def instead(_: LoopbackGrid, late: Message, own: Message) -> Message:
        late.metadata.__dict__["_reply_to_message_id"] = own.metadata.reply_to_message_id
        return late

    expected_items = Held(instead)
    expected_items.grid = grid_of(tmp_path, expected_items)
    results, _ = played(tmp_path, expected_items, expected_items.grid)
    assert results["rounds"][1]["refused"] == {"site-02": "answers round 1 in round 2"}
    assert results["participation"]["site-02"] == ["late", "refused"]


# -- waiting ---------------------------------------------------------------------------------------


class Away(LoopbackGrid):
    """Loses two of its nodes when round 2 begins; they are back after so many looks, if ever."""

    def lose(self, looks: float) -> None:
        self.looks, self.gone = looks, dict[int, Any]()
        self.tamper = self.after_round_1

    def after_round_1(self, message: Message, reply: Message) -> Message:
        if of_round(message) == 1 and message.metadata.dst_node_id == 103:
            self.gone = {n: self.nodes.pop(n) for n in (101, 102)}
            self.since = time.monotonic()
        return reply

    def get_node_ids(self) -> list[int]:
        if self.gone:
            self.looks -= 1
            if self.looks < 0:
                self.nodes |= self.gone
                self.gone = {}
                self.until = time.monotonic()
        return list(self.nodes)


def away(output: Path, looks: float) -> Away:
    grid = grid_of(output)
    lost = Away(grid.nodes, grid.run_config)
    lost.lose(looks)
    return lost


@pytest.mark.parametrize(("every", "least"), [(30.0, 1), (0.1, 3)])
def test_a_round_waits_for_enough_sites_and_says_now_and_then_who_is_missing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    every: float,
    least: int,
) -> None:
    monkeypatch.setattr(patience, "SAY_EVERY", every)
    caplog.set_level(logging.INFO)
    grid = away(tmp_path, looks=200)
    results, _ = simulate(tmp_path, "faces", [*PLAIN, "strategy.min_sites=3"], grid=grid)
    assert len(results["rounds"][1]["participants"]) == 4
    said = lines(caplog, "round 2: 2 of at least 3 sites are there")
    assert least <= len(said) <= 1 + (grid.until - grid.since) / every
    assert "site-01 (task pose, node 101): not connected" in said[0]
    assert "site-02 (task gender, node 102): not connected" in said[0]
    assert lines(caplog, "round 2: 4 sites are there, it goes on")


def test_a_run_gives_up_by_name_and_can_be_resumed(tmp_path: Path) -> None:
    whole, _ = simulate(tmp_path / "whole", "faces", PLAIN, grid=grid_of(tmp_path / "whole"))
    overrides = [*PLAIN, "strategy.min_sites=3", "strategy.give_up=0.5"]
    said = (
        r"round 2: 2 of at least 3 sites are there, missing: site-01 \(task pose, node 101\): not "
        r"connected; site-02 .*gave up after 0\.5 s \(strategy\.give_up\); what was learned up to "
        r"round 1 is kept"
    )
    cut = tmp_path / "cut"
    with pytest.raises(UserError, match=said):
        simulate(cut, "faces", overrides, grid=away(cut, looks=float("inf")))
    again, _ = simulate(cut, "faces", PLAIN, grid=grid_of(cut), resume="latest")
    assert same(states(tmp_path / "whole", whole["run"]), states(cut, again["run"]))


def test_a_round_that_nobody_took_part_in_is_played_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    asked = []

    def paused(message: Message, reply: Message) -> Message | None:
        if of_round(message) == 2:
            asked.append(message.metadata.dst_node_id)
        return None if of_round(message) == 2 and len(asked) <= 4 else reply

    overrides = [*PLAIN, "strategy.deadline=1"]
    results, _ = simulate(tmp_path / "a", "faces", overrides, grid=grid_of(tmp_path / "a", paused))
    assert asked == [100, 102, 101, 103] * 2
    (line,) = lines(caplog, "round 2: nobody took part")
    assert "site-03 (task pose, node 103): no answer within 1 s" in line
    whole, _ = simulate(tmp_path / "b", "faces", PLAIN, grid=grid_of(tmp_path / "b"))
    assert same(states(tmp_path / "a", results["run"]), states(tmp_path / "b", whole["run"]))


def test_a_run_whose_sites_never_answer_gives_up(tmp_path: Path) -> None:
    def paused(message: Message, reply: Message) -> Message | None:
        return None if of_round(message) == 2 else reply

    overrides = [*PLAIN, "strategy.deadline=0.2", "strategy.give_up=0.5"]
    said = (
        r"round 2: nobody took part \(.*site-03 .*no answer within 0\.2 s\); gave up after 0\.5 s"
    )
    with pytest.raises(UserError, match=said):
        simulate(tmp_path, "faces", overrides, grid=grid_of(tmp_path, paused))
    again, grid = simulate(tmp_path, "faces", PLAIN, grid=grid_of(tmp_path), resume="latest")
    assert {of_round(m) for m in grid.sent} - {None} == {2}
    assert len(again["rounds"]) == 2


def test_the_loop_looks_at_least_five_times_a_second() -> None:
    assert compose("faces", []).strategy.poll <= 0.2


# -- who took part ---------------------------------------------------------------------------------


def test_who_took_part_is_reported_by_site_and_round_and_survives_a_crash(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    def faults(message: Message, reply: Message) -> Message | None:
        number, node = of_round(message), message.metadata.dst_node_id
        if number in (1, 2) and node == 102:
            return None
        if number == 2 and node == 101:
            return with_report(error="the disk is full")(message, reply)
        return reply

    def dies(message: Message, reply: Message) -> Message | None:
        if of_round(message) == 3:
            raise Crash
        return faults(message, reply)

    overrides = [*PLAIN, "strategy.rounds=4", "strategy.deadline=2"]
    with pytest.raises(Crash):
        simulate(tmp_path, "faces", overrides, grid=grid_of(tmp_path, dies))
    grid = grid_of(tmp_path, faults)
    del grid.nodes[103]
    results, _ = simulate(tmp_path, "faces", overrides, grid=grid, resume="latest")
    jsonschema.validate(results, json.loads((DOCS / "results.schema.json").read_text()))
    assert results["participation"] == {
        "site-00": ["took part"] * 4,
        "site-01": ["took part", "refused", "took part", "took part"],
        "site-02": ["late", "late", "took part", "took part"],
        "site-03": ["took part", "took part", "not asked", "not asked"],
    }
    table = "\n".join(lines(caplog, "")[-40:])
    assert re.search(r"site-01 .* 3 of 4 .*round 2 refused: the disk is full", table)
    assert re.search(r"site-02 .* 2 of 4 .*rounds 1-2 late: no answer within 2 s", table)
    missed = table[table.index("Sites that missed") :]
    assert "site-00" not in missed
    assert "site-03" not in missed


def test_a_site_that_was_excluded_is_absent_with_its_reason(tmp_path: Path) -> None:
    grid = grid_of(tmp_path)
    grid.nodes[103] |= {"site": "clinic", "device": "abacus"}
    overrides = [*PLAIN, "strategy.on_site_error=exclude"]
    results, _ = simulate(tmp_path, "faces", overrides, grid=grid)
    assert results["participation"]["clinic"] == ["absent", "absent"]
    reason = results["rounds"][1]["absent"]["clinic"]
    assert reason.startswith("cannot take part: device does not exist")


def test_nothing_is_printed_where_nobody_missed_a_round() -> None:
    record = {"round": 1, "participants": ["a"], "late": {}, "refused": {}, "absent": {}}
    assert participation([record], ["b"]) == {"a": ["took part"], "b": ["not asked"]}
    assert participation_table(participation([record], ["b"]), [record]) == ""


@pytest.mark.parametrize(
    ("late", "said"),
    [([2], "round 2 late"), ([1, 2, 3], "rounds 1-3 late"), ([1, 2, 4], "rounds 1-2, 4 late")],
)
def test_rounds_that_were_missed_are_reported_as_spans(late: list[int], said: str) -> None:
    records = [
        {
            "round": number,
            "participants": [] if number in late else ["a"],
            "late": {"a": "no answer"} if number in late else {},
            "refused": {},
            "absent": {},
        }
        for number in range(1, 6)
    ]
    assert said in participation_table(participation(records), records)
