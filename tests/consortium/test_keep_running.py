"""A run is submitted again after a crash, and not for ever."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from consortium.keep_running import QUICK, KeptRun, read_pairs
from models.errors import UserError

AWAY = UserError("`flwr list`: StatusCode.UNAVAILABLE")


class Superlink:
    """Stands for the command `flwr`: says of each run what the test wants, in turn."""

    def __init__(self, told: list[tuple[str, float] | UserError]) -> None:
        self.told: Iterator[tuple[str, float] | UserError] = iter(told)
        self.now = 0.0
        self.commands: list[tuple[str, ...]] = []

    def __call__(self, *command: str) -> dict[str, Any]:
        self.commands.append(command)
        if command[0] == "run":
            return {"run-id": str(len(self.commands))}
        told = next(self.told)
        if isinstance(told, UserError):
            raise told
        status, seconds = told
        self.now += seconds
        return {"runs": [{"status": status, "status-details": "because"}]}

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def keep(self) -> KeptRun:
        pairs = read_pairs(["overrides=strategy.rounds=3"])
        lines: list[str] = []
        kept = KeptRun("hospitals", ".", pairs, log=lines.append, flower=self)
        kept.sleep, kept.clock = self.sleep, lambda: self.now
        return kept

    @property
    def submitted(self) -> list[str]:
        return [command[-1] for command in self.commands if command[0] == "run"]


def test_after_a_crash_the_same_run_is_resumed() -> None:
    superlink = Superlink(
        [("running", 1), AWAY, AWAY, ("finished:failed", 90), ("finished:completed", 1)]
    )
    superlink.keep().run()
    first, second = superlink.submitted
    assert first == second
    assert 'overrides="strategy.rounds=3"' in first
    assert 'resume="auto"' in first


def test_a_mistake_is_not_repeated_for_ever() -> None:
    superlink = Superlink([("finished:failed", 1)] * 9)
    with pytest.raises(UserError, match=r"5 times in a row.*because"):
        superlink.keep().run()
    assert len(superlink.submitted) == 5


def test_failures_long_apart_are_accidents() -> None:
    superlink = Superlink([("finished:failed", QUICK + 1)] * 20 + [("finished:completed", 1)])
    superlink.keep().run()
    assert len(superlink.submitted) == 21


def test_a_run_that_a_person_stopped_stays_so() -> None:
    superlink = Superlink([("running", 1), ("finished:stopped", 1)])
    with pytest.raises(UserError, match="stopped"):
        superlink.keep().run()
    assert len(superlink.submitted) == 1


def test_what_is_wrong_with_the_command_is_told_at_once() -> None:
    with pytest.raises(UserError, match="no connection"):
        Superlink([UserError("no connection named 'hospitals'")]).keep().run()
    for pair in ("name", "=x", 'a="b"'):
        with pytest.raises(UserError, match="key=value"):
            read_pairs([pair])
    with pytest.raises(UserError, match="leave it away"):
        KeptRun("hospitals", ".", {"resume": "latest"})
