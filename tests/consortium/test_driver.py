"""A run is submitted again after a crash, once at a time, and not for ever."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import pytest

from consortium.driver import COMPLETED, PATIENCE, STOPPED, RunDriver, read_pairs
from consortium.superlink import Away, SubmittedRun
from fedstrata.support.errors import UserError

FAILED = "finished:failed"
Fate = tuple[str, int]  # how a run ends, and the last round that it completes


@dataclass
class Fake:
    """Stands for a SuperLink: each submitted run is seen running twice, then meets the next fate."""

    fates: list[Fate]
    there: list[SubmittedRun] = field(default_factory=list)
    submitted: list[Mapping[str, str]] = field(default_factory=list)
    completed: dict[int, int] = field(default_factory=dict)
    looks: int = 0
    answers_lost: int = 0
    away: range = range(0)  # the looks at which it does not answer
    most_at_once: int = 0
    now: float = 0.0
    lines: list[str] = field(default_factory=list)

    def submit(self, app: str, run_config: Mapping[str, str]) -> int:
        self.submitted.append(run_config)
        number = len(self.there) + 1
        self.there.append(SubmittedRun(number, run_config["name"], "running"))
        self.looks = 0
        self.most_at_once = max(self.most_at_once, sum(not run.ended for run in self.there))
        if len(self.submitted) <= self.answers_lost:
            raise Away("`flwr run` did not end within 60 s")
        return number

    def runs(self) -> list[SubmittedRun]:
        self.looks += 1
        if self.looks in self.away:
            raise Away("UNAVAILABLE")
        if self.there and not self.there[-1].ended and self.looks > 2:
            status, rounds = self.fates.pop(0)
            self.there[-1] = replace(self.there[-1], status=status, details="because")
            self.completed[self.there[-1].id] = rounds
        return [SubmittedRun(99, "of somebody else", "running"), *self.there]

    def rounds(self, run_id: int) -> int:
        return self.completed[run_id]

    def results(self, run_id: int) -> list[str]:
        return [f"results: /srv/{run_id}/results.json"]

    def log_after(self, run_id: int, after: float) -> tuple[str, float]:
        parts = [(1.0, "INFO :      round 1/3: 3 of 3 sites\n"), (2.0, "Traceback\n")]
        run = next(run for run in self.there if run.id == run_id)
        if run.ended:
            parts.append((3.0, f"INFO :      results: /srv/{run_id}/results.json\n"))
        new = [(time, text) for time, text in parts if time > after]
        return "".join(text for _, text in new), max((time for time, _ in new), default=after)

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def keep(self, name: str = "march", *, again: bool = False) -> RunDriver:
        pairs = read_pairs(["overrides=strategy.rounds=3"])
        kept = RunDriver(self, ".", pairs, name, again, log=self.lines.append)
        kept.sleep, kept.clock = self.sleep, lambda: self.now
        return kept


def test_after_a_crash_the_same_run_is_resumed() -> None:
    superlink = Fake([(FAILED, 2), (COMPLETED, 3)], away=range(2, 4))
    superlink.keep().run()
    entries = {"overrides": "strategy.rounds=3", "name": "march", "resume": "auto"}
    assert superlink.submitted == [entries, entries]
    assert "the SuperLink is back" in superlink.lines
    assert superlink.lines[-2:] == ["results: /srv/2/results.json", "run 2: completed"]


@pytest.mark.parametrize("rounds", [[0] * 9, [4, *[4] * 9], [4, *[0] * 9]])
def test_a_run_that_fails_five_times_without_progress_is_given_up(rounds: list[int]) -> None:
    superlink = Fake([(FAILED, last) for last in rounds])
    with pytest.raises(UserError, match=r"5 times in a row without.*because.*--again"):
        superlink.keep().run()
    assert len(superlink.submitted) == (5 if not rounds[0] else 6)


def test_failures_with_complete_rounds_between_them_do_not_count() -> None:
    fates = [(FAILED, last) for last in range(1, 21) for _ in range(5)]
    superlink = Fake([*fates, (COMPLETED, 21)])
    superlink.keep().run()
    assert len(superlink.submitted) == 101


def test_after_a_lost_answer_nothing_is_submitted_twice() -> None:
    superlink = Fake([(COMPLETED, 3)], answers_lost=1)
    superlink.keep().run()
    assert len(superlink.submitted) == 1


def test_a_driver_that_is_started_again_goes_on_with_the_run_that_is_there() -> None:
    superlink = Fake([(FAILED, 1), (COMPLETED, 3)])
    superlink.submit(".", {"name": "march"})
    superlink.keep().run()
    assert len(superlink.submitted) == 2
    superlink.keep().run()
    assert len(superlink.submitted) == 2
    assert superlink.most_at_once == 1


def test_a_driver_that_is_started_again_knows_the_failures_before() -> None:
    superlink = Fake([(FAILED, 0)] * 6 + [(COMPLETED, 3)])
    for _ in range(3):
        with pytest.raises(UserError, match="5 times"):
            superlink.keep().run()
    assert len(superlink.submitted) == 5
    superlink.keep(again=True).run()
    assert len(superlink.submitted) == 7


def test_a_stopped_run_needs_again() -> None:
    superlink = Fake([(STOPPED, 1), (COMPLETED, 3)])
    for _ in range(2):
        with pytest.raises(UserError, match="stopped"):
            superlink.keep().run()
    assert len(superlink.submitted) == 1
    superlink.keep(again=True).run()
    assert len(superlink.submitted) == 2


def test_a_superlink_that_stays_away_is_given_up() -> None:
    superlink = Fake([], away=range(10**9))
    with pytest.raises(Away):
        superlink.keep().run()
    assert superlink.now > PATIENCE
    assert not superlink.submitted


def test_without_a_name_it_is_called_after_the_time() -> None:
    superlink = Fake([(COMPLETED, 3)])
    superlink.keep("").run()
    assert superlink.submitted[0]["name"].startswith("kept-")


def test_a_wrong_command_is_refused_at_once() -> None:
    for pair in ("name", "=x", 'a="b"'):
        with pytest.raises(UserError, match="key=value"):
            read_pairs([pair])
    with pytest.raises(UserError, match="write --name"):
        RunDriver(Fake([]), ".", {"resume": "latest"})
    with pytest.raises(UserError, match="--name"):
        RunDriver(Fake([]), ".", {}, name="../march")


def test_what_the_run_says_is_shown_once_while_it_goes_on() -> None:
    superlink = Fake([(FAILED, 1), (COMPLETED, 3)])
    superlink.keep().run()
    assert superlink.lines == [
        "run 1: submitted as march",
        "round 1/3: 3 of 3 sites",
        "results: /srv/1/results.json",
        "run 1: finished:failed after round 1 (because)",
        "run 2: submitted again, to be resumed",
        "round 1/3: 3 of 3 sites",
        "results: /srv/2/results.json",
        "run 2: completed",
    ]
