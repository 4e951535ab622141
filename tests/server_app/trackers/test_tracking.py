"""Every round is written once, also after faults and resumes; a tracker never ends a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from server_app.trackers.tracker import NoTracker, Plain, Tracker
from server_app.trackers.tracking import FILE, MOST_FAILURES, Tracking


class Memory(Tracker):
    """Keeps what it gets, and fails where it is told to."""

    def __init__(self, run: Path, name: str = "memory") -> None:
        super().__init__({"name": name}, run)
        self.got: list[Any] = []
        self.fails = False

    @classmethod
    def check(cls, options: Mapping[str, Any]) -> None:
        """Take all."""

    @property
    def place(self) -> str:
        """Here."""
        return "memory"

    def _get(self, *what: Any) -> None:
        if self.fails:
            raise ConnectionError("the server is down\nand more")
        self.got.append(what)

    def begin(self, known: str, step: int) -> str:
        """Note it."""
        self._get("begin", known, step)
        return known or "abc"

    def parameters(self, values: Mapping[str, Plain]) -> None:
        """Note it."""
        self._get("parameters")

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Note it."""
        self._get("metrics", step)

    def end(self, state: str) -> None:
        """Note it."""
        self._get("end", state)


def results(rounds: int, **ends: Any) -> dict[str, Any]:
    record = {
        "seconds": 1.0, "participants": [], "refused": {}, "late": {}, "absent": {},
        "bytes_down": {}, "bytes_up": {}, "tasks": {}, "sites": {},
    }  # fmt: skip
    return {
        "run": "r", "federation": "r", "config": {"seed": 1}, "versions": {}, "weights": None,
        "partition": {}, "sites": {},
        "rounds": [{**record, "round": number + 1} for number in range(rounds)], **ends,
    }  # fmt: skip


END: dict[str, Any] = {"mean": {"accuracy": 0.5}, "tasks": {}, "sites": {}}


class Said(list[str]):
    """The log."""

    def has(self, text: str) -> bool:
        """Return whether a line has ``text``."""
        return any(text in line for line in self)


def test_each_round_and_each_end_is_written_once(tmp_path: Path) -> None:
    memory, said = Memory(tmp_path), Said()
    with Tracking(memory, tmp_path, said.append) as tracking:
        tracking.update(results(1))
        tracking.update(results(2))
        tracking.update(results(2, final=END))
        tracking.update(results(2, final=END, best=END))
    steps = [each[1] for each in memory.got if each[0] == "metrics"]
    assert steps == [1, 2, 3, 3]
    assert memory.got[0] == ("begin", "", 1)
    assert memory.got[-1] == ("end", "complete")
    assert [each[0] for each in memory.got].count("parameters") == 1
    assert said == ["tracker: memory, run abc"]


def test_a_resumed_run_goes_on_in_the_same_run_of_the_tracker(tmp_path: Path) -> None:
    first = Tracking(Memory(tmp_path), tmp_path, print)
    first.update(results(2))
    first.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    memory = Memory(tmp_path)
    with Tracking(memory, tmp_path, print) as second:
        second.update(results(3))
    assert memory.got == [("begin", "abc", 3), ("metrics", 3), ("end", "complete")]


def test_a_run_that_ended_is_not_void_when_it_is_resumed(tmp_path: Path) -> None:
    with Tracking(Memory(tmp_path), tmp_path, print) as first:
        first.update(results(2, final=END))
    memory = Memory(tmp_path)
    Tracking(memory, tmp_path, print).update(results(2, final=END, best=END))
    assert memory.got == [("begin", "abc", 4), ("metrics", 3)]


def test_another_tracker_begins_anew(tmp_path: Path) -> None:
    Tracking(Memory(tmp_path), tmp_path, print).update(results(2))
    memory = Memory(tmp_path, name="other")
    Tracking(memory, tmp_path, print).update(results(3))
    assert [each[1] for each in memory.got if each[0] == "metrics"] == [1, 2, 3]


def test_a_run_that_goes_back_writes_the_rounds_again(tmp_path: Path) -> None:
    memory = Memory(tmp_path)
    tracking = Tracking(memory, tmp_path, print)
    tracking.update(results(3))
    tracking.update(results(2))
    tracking.update(results(3))
    assert memory.got[-2:] == [("begin", "abc", 3), ("metrics", 3)]


def test_what_failed_is_written_with_the_next_round(tmp_path: Path) -> None:
    memory, said = Memory(tmp_path), Said()
    with Tracking(memory, tmp_path, said.append) as tracking:
        tracking.update(results(1))
        memory.fails = True
        tracking.update(results(2))
        memory.fails = False
        tracking.update(results(3))
    assert [each[1] for each in memory.got if each[0] == "metrics"] == [1, 2, 3]
    assert said.has(
        "memory does not take what the run writes (the server is down); the run goes on"
    )
    assert said.has("1 of 4 writes to memory failed; nothing is missing there")


def test_a_tracker_that_stays_down_is_left_alone_and_counted(tmp_path: Path) -> None:
    memory, said = Memory(tmp_path), Said()
    memory.fails = True
    with Tracking(memory, tmp_path, said.append) as tracking:
        for number in range(1, 9):
            tracking.update(results(number))
    failed = MOST_FAILURES + 1
    assert said[-1] == (
        f"tracker: {failed} of {failed} writes to memory failed; rounds 1 to 8 are missing there, "
        "and results.json has them"
    )
    assert len(said) == 3
    memory = Memory(tmp_path)
    Tracking(memory, tmp_path, print).update(results(8))  # resumed
    assert [each[1] for each in memory.got if each[0] == "metrics"] == list(range(1, 9))


def test_how_the_run_ended_is_written(tmp_path: Path) -> None:
    for error, state in ((RuntimeError, "failed"), (SystemExit, "stopped")):
        memory = Memory(tmp_path)
        tracking = Tracking(memory, tmp_path, print)
        tracking.update(results(1))
        tracking.__exit__(error, error(), None)
        assert memory.got[-1] == ("end", state)


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"tracker": 1}', b"\xff", b'{"x": 1}'])
def test_a_file_that_cannot_be_read_begins_anew(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    memory = Memory(tmp_path)
    Tracking(memory, tmp_path, print).update(results(1))
    assert memory.got[0] == ("begin", "", 1)


def test_without_a_tracker_nothing_is_written(tmp_path: Path) -> None:
    said = Said()
    with Tracking(NoTracker({"name": "none"}, tmp_path), tmp_path, said.append) as tracking:
        tracking.update(results(1))
    assert not said
    assert not list(tmp_path.iterdir())
