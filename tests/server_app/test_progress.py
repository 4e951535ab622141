"""progress.json while a run goes on: its states, the sites, and the time that is left."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedstrata.protocol import kinds
from fedstrata.protocol.progress import Progress, read_progress
from fedstrata.support.errors import UserError, private
from server_app.progress import RunProgress
from server_app.rounds.records import RoundRecord
from server_app.sites.roster import Roster
from server_app.time_left import Stage
from tests.helpers.runs import PLAIN
from tests.loopback import simulate


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def written(folder: Path) -> Progress:
    progress = read_progress(folder)
    assert progress is not None
    return progress


def record(seconds: float, **missed: dict[str, str]) -> RoundRecord:
    return RoundRecord(1, seconds, {"common": 10}, {"common": 4}, participants=["a"], **missed)


def test_a_round_from_its_order_to_its_record(tmp_path: Path) -> None:
    clock = Clock()
    progress = RunProgress(tmp_path, clock)
    progress.join({"a": "age", "b": "age", "c": "pose"})
    progress.begin(rounds=3, history=[], afterwards=[Stage(kinds.EVALUATE, 1)])
    clock.now += 1
    progress.ask(kinds.TRAIN, 1, ["a", "b"])
    states = {name: site.state for name, site in written(tmp_path).sites.items()}
    assert states == {"a": "working", "b": "working", "c": "waiting"}
    assert written(tmp_path).seconds_left is None  # no round was measured yet
    clock.now += 10
    progress.look(RoundRecord(1), pending={"b"})
    assert written(tmp_path).sites["a"].state == "answered"
    clock.now += 10
    done = record(20.0, refused={"b": "waiting for approval at b"}, late={"c": "no answer"})
    progress.played(done, [done.to_dict()])
    now = written(tmp_path)
    assert (now.state, now.round, now.rounds, now.bytes_down, now.bytes_up) == (
        "running",
        1,
        3,
        10,
        4,
    )
    assert {n: s.state for n, s in now.sites.items()} == {
        "a": "trained",
        "b": "waiting for approval",
        "c": "late",
    }
    assert now.seconds_left == 60.0  # two rounds, and what comes after them
    clock.now += 5
    progress.ask(kinds.TRAIN, 2, ["a"])
    clock.now += 5
    progress.look(RoundRecord(2), pending={"a"})
    assert written(tmp_path).seconds_left == 55.0
    assert written(tmp_path).sites["c"].state == "waiting"  # it is not late in this round
    assert written(tmp_path).sites["b"].state == "waiting for approval"


def test_it_is_not_written_at_every_look(tmp_path: Path) -> None:
    clock = Clock()
    progress = RunProgress(tmp_path, clock)
    progress.ask(kinds.TRAIN, 1, ["a"])
    before = (tmp_path / "progress.json").stat().st_ino
    for _ in range(5):
        progress.look(RoundRecord(1), pending={"a"})
    assert (tmp_path / "progress.json").stat().st_ino == before
    progress.ask(kinds.EVALUATE, 2, ["a"])  # another state is written at once
    assert written(tmp_path).state == "evaluating"


def test_rounds_that_are_left_out_take_no_time(tmp_path: Path) -> None:
    clock = Clock()
    progress = RunProgress(tmp_path, clock)
    progress.join({"a": "age"})
    history = [{"seconds": 10.0, "bytes_down": {}, "bytes_up": {}}]
    progress.begin(rounds=200, history=history, afterwards=[Stage(kinds.EVALUATE, 2)])
    progress.ask(kinds.TRAIN, 2, ["a"])
    assert written(tmp_path).seconds_left == 2010.0
    progress.ask(kinds.EVALUATE, 2, ["a"])  # choose.patience ended the rounds
    assert written(tmp_path).seconds_left == 20.0


def test_how_it_ended_is_written(tmp_path: Path) -> None:
    def end(error: BaseException) -> Progress:
        with pytest.raises(type(error)), RunProgress(tmp_path).of_run():
            raise error
        return written(tmp_path)

    failed = end(UserError("no room in " + private("/data/anna", "a folder")))
    assert (failed.state, failed.reason) == ("failed", "no room in a folder")
    assert (
        end(UserError("no site:\n  north: no room\n(go on)")).reason
        == "no site: north: no room (go on)"
    )
    assert end(ValueError("odd")).reason == "ValueError: odd"
    assert end(KeyboardInterrupt()).state == "stopped"
    with RunProgress(tmp_path).of_run():
        assert written(tmp_path).state == "waiting"
    assert written(tmp_path).state == "complete"


def test_a_folder_that_cannot_be_written_ends_no_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with RunProgress(tmp_path / "gone").of_run():
        pass
    assert caplog.text.count("cannot be written") == 1


def test_a_run_leaves_its_progress_beside_its_results(tmp_path: Path) -> None:
    results, _ = simulate(tmp_path, "faces", PLAIN, sites=2)
    now = written(tmp_path / results["run"])
    last = results["rounds"][-1]
    assert (now.state, now.round, now.rounds) == ("complete", last["round"], last["round"])
    assert now.sites.keys() == results["sites"].keys()
    assert now.bytes_up == sum(sum(each["bytes_up"].values()) for each in results["rounds"])


def test_a_run_that_waits_for_sites_says_which(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Roster, "connected", lambda _: set())
    overrides = [*PLAIN, "strategy.join_timeout=0.1", "strategy.poll=0.01"]
    with pytest.raises(UserError):
        simulate(tmp_path, "faces", overrides, sites=2)
    (folder,) = tmp_path.iterdir()
    now = written(folder)
    assert now.state == "failed"
    assert "0 of" in now.reason or "no site" in now.reason


def test_what_an_earlier_start_completed_is_known_to_the_next(tmp_path: Path) -> None:
    first = RunProgress(tmp_path, Clock())
    assert first.played_before == 0
    done = record(1.0)
    first.begin(5, [done.to_dict()] * 4, [])
    assert written(tmp_path).complete == 4
    again = RunProgress(tmp_path, Clock())
    assert again.played_before == 4
    again.begin(5, [done.to_dict()] * 3, [])
    assert written(tmp_path).complete == 3
    (tmp_path / "progress.json").write_text("no JSON")
    assert RunProgress(tmp_path, Clock()).played_before == 0
