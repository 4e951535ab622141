"""Sites that go, come back, are mended, and runs that are taken up or begun under an old name."""

from __future__ import annotations

import itertools
import json
import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from flwr.app import Message

from client_app.store import DiskStore
from fedstrata.protocol import answers, kinds, limits
from fedstrata.support import checksums
from fedstrata.support.errors import UserError
from server_app import patience, run_folder
from server_app.run_folder import RunFolder
from tests.helpers.changing_grid import changing_grid
from tests.helpers.logs import lines
from tests.helpers.runs import PLAIN, Crash, grid_of, same, states
from tests.helpers.tampering import of_round, with_report
from tests.loopback import LoopbackGrid, failed, simulate

pytestmark = pytest.mark.long  # runs that wait and end; rounds/ and sites/ have the small tests

GENDER, POSE = (100, 102), (101, 103)  # the nodes of the two tasks


# -- tasks that come back --------------------------------------------------------------------------


def test_a_task_whose_sites_come_back_after_a_resume_goes_on_from_the_checkpoint(
    tmp_path: Path,
) -> None:
    overrides = [
        *PLAIN,
        "strategy.rounds=8",
        "aggregator@strategy.aggregators.task=fedavgm",
    ]

    def dies(message: Message, reply: Message) -> Message:
        if of_round(message) == 3:
            raise Crash
        return reply

    with pytest.raises(Crash):
        simulate(tmp_path, "faces", overrides, grid=grid_of(tmp_path, dies))
    (run,) = (path.name for path in tmp_path.iterdir() if (path / "run.json").exists())
    before = states(tmp_path, run)
    grid = changing_grid(tmp_path)
    gone = {node: grid.nodes.pop(node) for node in POSE}
    received: dict[str, torch.Tensor] = {}

    def back(message: Message, reply: Message) -> Message:
        number = of_round(message)
        if number == 7:  # checkpoints of rounds 1 to 3 are deleted by now
            grid.nodes.update(gone)
        if number and message.metadata.dst_node_id in POSE and not received:
            received.update(safetensors.torch.load(message.content["layers"]["task"].data))
        return reply

    grid.tamper = back
    simulate(tmp_path, "faces", overrides, grid=grid, resume="latest")
    assert received
    for name, tensor in received.items():
        assert torch.equal(tensor, before[f"state/task/pose//{name}"])
    assert {name for name in states(tmp_path, run) if "pose" in name} == {
        name for name in before if "pose" in name
    }


def test_a_task_that_needs_answers_is_waited_for_after_a_resume(tmp_path: Path) -> None:
    overrides = [*PLAIN, "strategy.rounds=3", "strategy.minimum.task=1", "strategy.give_up=0.5"]

    def dies(message: Message, reply: Message) -> Message:
        if of_round(message) == 2:
            raise Crash
        return reply

    with pytest.raises(Crash):
        simulate(tmp_path, "faces", overrides, grid=grid_of(tmp_path, dies))
    grid = changing_grid(tmp_path)
    for node in POSE:
        del grid.nodes[node]
    with pytest.raises(UserError, match="group 'task/pose' has 0 of at least 1 sites"):
        simulate(tmp_path, "faces", overrides, grid=grid, resume="latest")


def test_a_run_that_died_before_anything_was_written_is_begun(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    named = {"name": "kept", "resume": "auto"}
    results, _ = simulate(tmp_path, "faces", PLAIN, grid=grid_of(tmp_path), **named)
    assert len(results["rounds"]) == 2


def test_a_checkpoint_of_before_which_had_more_in_it_is_resumed(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.save(2, {"common": {"w": torch.ones(2)}}, {}, [{"round": 1}, {"round": 2}])
    path = tmp_path / "checkpoints" / "round-000002" / "round.json"
    said = checksums.checked(json.loads(path.read_text()))
    assert set(said) == {"round", "history"}
    more = {**said, "random": {"seed": 7, "next_round": 3}}
    path.write_text(json.dumps(checksums.with_checksum(more)))
    saved = folder.latest()
    assert saved is not None
    assert (saved.round, saved.history) == (2, [{"round": 1}, {"round": 2}])


# -- names that are used again ---------------------------------------------------------------------


def test_a_second_run_of_a_name_finds_nothing_of_the_first(tmp_path: Path) -> None:
    overrides = [*PLAIN, "strategy.rounds=3", "groups.personal=[head.out, 'type:BatchNorm2d']"]
    found = []
    for _ in range(2):
        results, _grid = simulate(
            tmp_path, "faces", overrides, grid=grid_of(tmp_path), name="march"
        )
        store = DiskStore(tmp_path, results["federation"], "site-00")
        kept = store.before(4)
        assert kept is not None
        found.append((results["federation"], kept.flat()))
        shutil.rmtree(tmp_path / "march")  # the server's folder is lost, the site's is not
    assert found[0][0] != found[1][0]
    assert same(found[0][1], found[1][1])


def test_a_resumed_named_run_is_the_same_federation(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "march", chosen=True)
    folder.begin({}, "faces")
    assert RunFolder(tmp_path / "march").federation == folder.federation != "march"


def test_two_servers_do_not_write_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_folder, "LOCK_PATIENCE", 0.3)
    results, _ = simulate(tmp_path, "faces", PLAIN, grid=grid_of(tmp_path))
    folder = RunFolder(tmp_path / results["run"])
    again = {"grid": grid_of(tmp_path), "resume": "latest"}
    with folder.written_here(), pytest.raises(UserError, match="another ServerApp writes into"):
        simulate(tmp_path, "faces", PLAIN, **again)
    simulate(tmp_path, "faces", PLAIN, **again)
    with pytest.raises(UserError, match="another run has just begun"):
        folder.begin({}, "faces")


def test_nobody_begins_a_run_where_another_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_folder, "LOCK_PATIENCE", 0.3)
    other = RunFolder(tmp_path / "march", chosen=True)
    begin = {"grid": grid_of(tmp_path), "name": "march"}
    with other.written_here(), pytest.raises(UserError, match="another ServerApp writes into"):
        simulate(tmp_path, "faces", PLAIN, **begin)
    assert not other.has_begun


def test_a_folder_that_cannot_be_made_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    folder = RunFolder(tmp_path / "file" / "march")
    with (
        pytest.raises(UserError, match=r"output-dir: .*file/march cannot be made"),
        folder.written_here(),
    ):
        pass


# -- sites that are mended -------------------------------------------------------------------------


@dataclass
class Looked(LoopbackGrid):
    """Does something when its nodes are looked at for so many times."""

    then: dict[int, Callable[[], object]] = field(default_factory=dict)
    looks: int = 0

    def get_node_ids(self) -> list[int]:
        self.looks += 1
        self.then.get(self.looks, lambda: None)()
        return list(self.nodes)


def gathering(output: Path) -> Looked:
    """Return four nodes, of which the first comes late, so that a run waits for it."""
    grid = Looked(grid_of(output).nodes, {"output-dir": str(output)})
    late = grid.nodes.pop(100)
    grid.then[40] = lambda: grid.nodes.update({100: late})
    return grid


def broken(*nodes: int, until: list[bool]) -> Callable[[Message, Message], Message]:
    """Return a tamper: queries to ``nodes`` are answered with an error until the list is not empty."""

    def tamper(message: Message, reply: Message) -> Message:
        asked = message.metadata.message_type == kinds.QUERY
        if asked and message.metadata.dst_node_id in nodes and not until:
            return with_report(error="the data folder cannot be read")(message, reply)
        return reply

    return tamper


def test_an_excluded_site_that_is_mended_takes_part_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "SAY_EVERY", 0.0)  # asked again at every look
    mended: list[bool] = []
    tell = broken(103, until=mended)

    def tamper(message: Message, reply: Message) -> Message:
        if of_round(message) == 2:
            mended.append(True)
        return tell(message, reply)

    overrides = [*PLAIN, "strategy.rounds=6", "strategy.on_site_error=exclude"]
    results, _ = simulate(tmp_path, "faces", overrides, grid=grid_of(tmp_path, tamper))
    assert results["participation"]["site-03"][:2] == ["absent", "absent"]
    assert results["participation"]["site-03"][-1] == "took part"
    assert "the data folder" in results["rounds"][0]["absent"]["site-03"]


def test_a_site_that_is_mended_while_the_run_gathers_does_not_stop_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "SAY_EVERY", 0.05)
    mended: list[bool] = []
    tell = broken(103, until=mended)

    def tamper(message: Message, reply: Message) -> Message:
        answer = tell(message, reply)
        mended.extend([True] if message.metadata.dst_node_id == 103 else [])
        return answer

    grid = gathering(tmp_path)
    grid.tamper = tamper
    results, _ = simulate(tmp_path, "faces", [*PLAIN, "strategy.min_sites=4"], grid=grid)
    assert results["rounds"][0]["participants"] == ["site-00", "site-01", "site-02", "site-03"]


def test_a_supernode_that_is_restarted_while_the_run_gathers_keeps_its_name(tmp_path: Path) -> None:
    grid = gathering(tmp_path)
    grid.then[20] = lambda: grid.nodes.update({203: grid.nodes.pop(103)})
    results, _ = simulate(tmp_path, "faces", [*PLAIN, "strategy.min_sites=4"], grid=grid)
    assert len(results["rounds"][0]["participants"]) == 4


def test_a_node_that_goes_while_the_run_gathers_is_no_site_with_a_mistake(tmp_path: Path) -> None:
    """A SuperNode that was killed: the SuperLink sees it for a while, and then answers in its place."""
    grid = Looked(grid_of(tmp_path).nodes, {"output-dir": str(tmp_path)})
    grid.nodes[203] = {**grid.nodes[103]}
    asked: list[Message] = []

    def tamper(message: Message, reply: Message) -> Message | None:
        if message.metadata.dst_node_id != 203:
            return reply
        asked.append(message)
        return None

    def answer() -> None:
        gone = failed(asked[0], reason="its heartbeats stopped")
        grid.replies[asked[0].metadata.message_id] = gone

    grid.tamper = tamper
    grid.then.update({100: answer, 110: lambda: grid.nodes.pop(203)})
    results, _ = simulate(tmp_path, "faces", PLAIN, grid=grid)
    assert results["rounds"][0]["participants"] == ["site-00", "site-01", "site-02", "site-03"]
    assert not grid.replies


def test_a_site_that_comes_back_broken_is_absent_for_its_own_reason(tmp_path: Path) -> None:
    grid = changing_grid(tmp_path)

    def restart() -> None:
        grid.nodes[203] = {**grid.nodes.pop(103), "site": "site-03", "device": "abacus"}

    grid.when(1, restart)
    results, _ = simulate(tmp_path, "faces", [*PLAIN, "strategy.rounds=3"], grid=grid)
    assert "device" in results["rounds"][2]["absent"]["site-03"]


# -- who refuses -----------------------------------------------------------------------------------


def test_a_site_that_refuses_costs_its_own_share_alone(tmp_path: Path) -> None:
    """Where one site a task is asked, the one that is asked first refuses."""
    refused: set[int] = set()

    def tamper(message: Message, reply: Message) -> Message:
        node = message.metadata.dst_node_id
        if of_round(message) is None:
            return reply
        if not refused & ({*GENDER} if node in GENDER else {*POSE}):
            refused.add(node)
        return with_report(error="disk full")(message, reply) if node in refused else reply

    overrides = [*PLAIN, "strategy.fraction=0.5", "strategy.rounds=4"]
    results, _ = simulate(tmp_path, "faces", overrides, grid=grid_of(tmp_path, tamper))
    assert len(refused) == 2
    assert len(results["rounds"]) == 4
    assert all(record["participants"] for record in results["rounds"])


def test_a_run_waits_for_sites_that_do_not_train_now(tmp_path: Path) -> None:
    refusals: list[int] = []

    def tamper(message: Message, reply: Message) -> Message:
        if of_round(message) == 1 and len(refusals) < 8:
            refusals.append(message.metadata.dst_node_id)
            return answers.failure(
                message, f"site-0{refusals[-1] - 100}", 1, "at night", later=True
            )
        return reply

    results, _ = simulate(tmp_path, "faces", PLAIN, grid=grid_of(tmp_path, tamper))
    assert len(refusals) == 8
    assert len(results["rounds"][0]["participants"]) == 4


class Clock:
    """Time that passes at once where the rounds sleep."""

    def __init__(self) -> None:
        self.slept = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.slept

    def sleep(self, seconds: float) -> None:
        self.slept += seconds


@pytest.mark.parametrize("closed", [True, False], ids=["closed", "failing"])
def test_sites_outside_their_hours_are_asked_ever_less_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closed: bool
) -> None:
    clock = Clock()
    monkeypatch.setattr(patience, "time", clock)
    asked: list[float] = []

    def tamper(message: Message, reply: Message) -> Message:
        if of_round(message) != 1 or message.metadata.dst_node_id != 103:
            return reply
        asked.append(clock.slept)
        if len(asked) > 9:
            return reply
        if closed:
            return answers.failure(message, "site-03", 1, "at night", later=True)
        return failed(message, code=2, reason="its app died")

    overrides = [*PLAIN, "strategy.minimum.common=4", "strategy.give_up=3600", "strategy.poll=0.5"]
    results, _ = simulate(tmp_path, "faces", overrides, grid=grid_of(tmp_path, tamper))
    pauses = [after - before for before, after in itertools.pairwise(asked)]
    longest = [64, 128] if closed else [30, 30]
    assert pauses == pytest.approx([0.5, 1, 2, 4, 8, 16, 32 if closed else 30, *longest], rel=0.05)
    assert len(results["rounds"][0]["participants"]) == 4


def test_a_site_that_joins_ends_a_long_pause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(patience, "time", clock)
    grid = grid_of(tmp_path)
    late = grid.nodes.pop(102)
    asked: list[float] = []

    def tamper(message: Message, reply: Message) -> Message:
        if of_round(message) == 1 and message.metadata.dst_node_id == 103:
            asked.append(clock.slept)
            grid.nodes.update({102: late} if len(asked) == 2 else {})
            return answers.failure(message, "site-03", 1, "at night", later=True)
        return reply

    grid.tamper = tamper
    overrides = [*PLAIN, "strategy.minimum.common=3", "strategy.min_sites=3", "strategy.poll=20"]
    monkeypatch.setattr(time, "sleep", lambda _: None)  # of the inbox, in real time
    results, _ = simulate(tmp_path, "faces", overrides, grid=grid)
    assert results["rounds"][0]["participants"] == ["site-00", "site-01", "site-02"]
    assert asked[1] - asked[0] == pytest.approx(20, rel=0.05)
    assert asked[2] - asked[1] < 5  # of 40


# -- minimum of answers ----------------------------------------------------------------------------


def test_a_round_with_too_few_answers_for_a_group_changes_nothing_and_is_played_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    asked: list[int] = []

    def tamper(message: Message, reply: Message) -> Message:
        if of_round(message) == 2 and message.metadata.dst_node_id == 103:
            asked.append(103)
            if len(asked) == 1:
                return failed(message, code=2, reason="its app died")
        return reply

    overrides = [*PLAIN, "strategy.minimum.common=4", "groups.personal=['type:BatchNorm2d']"]
    whole, _ = simulate(tmp_path / "a", "faces", overrides, grid=grid_of(tmp_path / "a"))
    results, _ = simulate(tmp_path / "b", "faces", overrides, grid=grid_of(tmp_path / "b", tamper))
    assert len(asked) == 2
    (line,) = lines(caplog, "it is played again")
    assert "group 'common' has 3 of at least 4 sites (site-03 (task pose, node 103)" in line
    assert "its app died" in line
    assert same(states(tmp_path / "a", whole["run"]), states(tmp_path / "b", results["run"]))
    for way, times in (("bytes_down", 8), ("bytes_up", 7)):  # of four sites' once
        (twice, once) = (each["rounds"][1][way]["common"] for each in (results, whole))
        assert twice == once * times // 4


def test_a_task_that_joins_in_mid_round_does_not_make_it_too_few(tmp_path: Path) -> None:
    grid = changing_grid(tmp_path)
    late = grid.nodes.pop(101), grid.nodes.pop(103)
    grid.when(1, lambda: grid.nodes.update({101: late[0]}))
    joins = grid.tamper

    def tamper(message: Message, reply: Message) -> Message | None:
        silent = of_round(message) == 1 and message.metadata.dst_node_id == 102
        answer = joins(message, reply)
        return None if silent else answer

    grid.tamper = tamper
    overrides = [*PLAIN, "strategy.minimum.task=1", "strategy.deadline=5"]
    results, _ = simulate(tmp_path, "faces", overrides, grid=grid)
    asked = [m for m in grid.sent if of_round(m) == 1 and m.metadata.dst_node_id == 100]
    assert len(asked) == 1
    assert results["participation"]["site-01"] == ["not asked", "took part"]
    assert results["participation"]["site-02"] == ["late", "took part"]


def test_a_group_that_cannot_reach_its_minimum_gives_up_by_name(tmp_path: Path) -> None:
    grid = changing_grid(tmp_path)
    grid.when(1, lambda: grid.nodes.pop(103))  # type: ignore[arg-type, return-value]
    overrides = [*PLAIN, "strategy.minimum.task=2", "strategy.give_up=0.5"]
    said = (
        r"round 1: group 'task/pose' has 1 of at least 2 sites, missing: site-03 \(task pose, "
        r"node 103\): not connected; gave up after 0\.5 s"
    )
    with pytest.raises(UserError, match=said):
        simulate(tmp_path, "faces", overrides, grid=grid)


def test_a_minimum_below_zero_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"strategy\.minimum\.common must be 0 or greater"):
        simulate(tmp_path, "faces", [*PLAIN, "strategy.minimum.common=-1"])


# -- sites that join while rounds are played -------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"task": "age", "input_shape": [3, 1, 1]}, "task 'age': images of 1x1 are too small"),
        (
            {"task": "age", "input_shape": [2**26, 1, 1]},
            "task 'age': small_cnn: images of 67108864",
        ),
        ({"classes": [f"a{n}" for n in range(999)]}, "has the classes a0, a1, "),
        ({"task": "age", "fingerprints": {}}, "group 'common' does not fit that of the server"),
        ({"fingerprints": {}, "schemas": {"common": {"\x1b[2J": "\n"}}}, "group 'common'"),
    ],
)
def test_a_site_that_does_not_fit_stops_no_run_and_says_little(
    tmp_path: Path, said: dict[str, Any], reason: str
) -> None:
    grid = changing_grid(tmp_path)
    late = grid.nodes.pop(103)
    grid.when(1, lambda: grid.nodes.update({103: late}))
    joins = grid.tamper

    def tamper(message: Message, reply: Message) -> Message | None:
        answer = joins(message, reply)
        asked = message.metadata.message_type == kinds.QUERY
        other = asked and message.metadata.dst_node_id == 103 and answer is not None
        return with_report(**said)(message, answer) if other else answer

    grid.tamper = tamper
    overrides = [*PLAIN, "strategy.rounds=3", "strategy.minimum.task=1", "strategy.give_up=5"]
    results, _ = simulate(tmp_path, "faces", overrides, grid=grid)
    why = results["rounds"][2]["absent"]["site-03"]
    assert reason in why
    assert why.isprintable()
    assert len(why) <= len("cannot take part: ") + limits.MOST_REASON_CHARACTERS
    assert len(results["rounds"][2]["participants"]) == 3


# -- texts of rejected ----------------------------------------------------------------------------


def test_a_rejected_sites_text_is_one_short_line(tmp_path: Path) -> None:
    def tamper(message: Message, reply: Message) -> Message:
        if of_round(message) == 1 and message.metadata.dst_node_id == 103:
            return with_report(error="\x1b[2J\nround 1/2: fine" + "x" * 1_000_000)(message, reply)
        if of_round(message) == 1 and message.metadata.dst_node_id == 102:
            return failed(message, code=2, reason="\x1b[2J\nround 1/2: fine")
        return reply

    results: dict[str, Any]
    results, _ = simulate(tmp_path, "faces", PLAIN, grid=grid_of(tmp_path, tamper))
    said: dict[str, str] = results["rounds"][0]["refused"]
    assert set(said) == {"site-02", "site-03"}
    assert all(text.isprintable() for text in said.values())
    assert max(map(len, said.values())) <= limits.MOST_REASON_CHARACTERS
