"""A run that comes back: it is watched, and submitted again if the SuperLink or its app died."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Protocol

from consortium.run_log import RunLog
from consortium.superlink import Away, SubmittedRun
from fedstrata.protocol.limits import MOST_RUN_NAME, NAME
from fedstrata.support.errors import UserError

POLL = 5.0  # seconds between two looks at the run
PATIENCE = 3600.0  # seconds for which a SuperLink may be away
COMPLETED, STOPPED = "finished:completed", "finished:stopped"


class Runs(Protocol):
    """The part of `consortium.superlink.SuperLink` that a driver needs."""

    def submit(self, app: str, run_config: Mapping[str, str]) -> int:
        """Submit a run; return its id."""

    def runs(self) -> Sequence[SubmittedRun]:
        """Return all runs, the oldest first."""

    def rounds(self, run_id: int) -> int:
        """Return the last round that a run completed."""

    def results(self, run_id: int) -> Sequence[str]:
        """Return where a run's results are and how they are fetched, a line each."""

    def log_after(self, run_id: int, after: float) -> tuple[str, float]:
        """Return what a run said after a time, and the time of the last of it."""


@dataclass
class RunDriver:
    """Submits a run, and submits it again to be resumed until it is complete.

    When its ServerApp dies, or a SuperLink is away for long, a run of Flower has ended for good. The
    run's folder has its checkpoints: submitted again under the same name, it goes on from the last
    complete round.

    The SuperLink's own list says what was submitted under the name, and how it ended. Nothing is
    submitted while such a run is going on, whoever submitted it. So a lost answer, or a driver that
    is started again, never makes two.

    Parameters
    ----------
    superlink : Runs
        Where to submit it.
    app : str
        Folder of the app.
    run_config : mapping of str to str
        Pairs for ``flwr run -c``; ``name`` and ``resume`` are set here.
    name : str
        The run's; by default the time. A run of this name is resumed.
    again : bool
        Whether to submit it however it ended before.
    most_failures : int
        Failures in a row without a new complete round after which to give up.
    log : callable
        Receives one line.
    """

    superlink: Runs
    app: str
    run_config: dict[str, str]
    name: str = ""
    again: bool = False
    most_failures: int = 5
    log: Callable[[str], None] = print
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    counted: set[int] = field(default_factory=set)  # runs that ended and were counted
    watched: int | None = None  # the run that is going on
    failures: int = 0  # in a row
    last_round: int = 0  # that was completed
    away_since: float | None = None
    logs: dict[int, RunLog] = field(
        default_factory=dict
    )  # what each run said, as far as it is shown

    def __post_init__(self) -> None:
        for key in ("name", "resume"):
            if key in self.run_config:
                raise UserError(f"-c {key}=...: the run's {key} is chosen here: write --name")
        self.name = self.name or f"kept-{datetime.now(UTC):%Y%m%d-%H%M%S}"
        if not NAME.fullmatch(self.name) or len(self.name) > MOST_RUN_NAME:
            raise UserError(
                f"--name {self.name[:80]!r}: write letters, digits, '.', '_' and '-', at most "
                f"{MOST_RUN_NAME}"
            )
        self.run_config = {**self.run_config, "name": self.name, "resume": "auto"}

    def run(self) -> None:
        """Return when the run is complete.

        Raises
        ------
        UserError
            It failed ``most_failures`` times in a row without a new complete round, was stopped
            by a person, or the SuperLink was away for an hour.
        """
        while True:
            try:
                if self._step():
                    return
            except Away as error:
                self._note_away(error)
            else:
                if self.away_since is not None:
                    self.log("the SuperLink is back")
                self.away_since = None
            self.sleep(POLL)

    def _step(self) -> bool:
        """Look at the run and submit it if needed; return whether it is complete."""
        # What this driver submitted before is not remembered but looked up: an answer may be lost,
        # and another driver may have submitted it.
        mine = [run for run in self.superlink.runs() if run.name == self.name]
        if self.again:
            self.counted |= {run.id for run in mine if run.ended}
            self.again = False
        for run in mine:
            if not run.ended:
                if self.watched != run.id:
                    self.log(f"run {run.id}: {self.name} is {run.status}")
                    self.watched = run.id
                self._show(run.id)
                return False
        ended = [run for run in mine if run.id not in self.counted]
        for run in ended:
            self._count(run)
        if ended and ended[-1].status == COMPLETED:
            return True
        if ended and ended[-1].status == STOPPED:
            raise UserError(
                f"run {ended[-1].id} was stopped: {_reason(ended[-1])}; to go on with it, give the "
                f"same command with --name {self.name} --again"
            )
        if self.failures >= self.most_failures:
            raise UserError(
                f"{self.name} failed {self.failures} times in a row without a new complete round, "
                f"the last time with: {_reason(ended[-1])}; see `flwr log {ended[-1].id} CONNECTION`, "
                f"mend it, and give the same command with --name {self.name} --again"
            )
        self.watched = self.superlink.submit(self.app, self.run_config)
        how = "again, to be resumed" if mine else f"as {self.name}"
        self.log(f"run {self.watched}: submitted {how}")
        return False

    def _count(self, run: SubmittedRun) -> None:
        """Count how a run ended."""
        shown = self._show(run.id)
        if run.status in (COMPLETED, STOPPED):
            self.failures = 0
            self.log(f"run {run.id}: {run.status.removeprefix('finished:')}")
            if run.status == COMPLETED:
                for line in self.superlink.results(run.id):
                    if line not in shown:
                        self.log(line)
        else:
            # A run that gets further each time fails by accident; one that does not has a cause.
            rounds = self.superlink.rounds(run.id)
            self.failures = 0 if rounds > self.last_round else self.failures + 1
            self.last_round = max(self.last_round, rounds)
            self.log(f"run {run.id}: {run.status} after round {self.last_round} ({_reason(run)})")
        self.counted.add(run.id)

    def _show(self, run_id: int) -> list[str]:
        """Log what a run said since the last look; return it."""
        log = self.logs.setdefault(run_id, RunLog(partial(self.superlink.log_after, run_id)))
        lines = list(log.new())
        for line in lines:
            self.log(line)
        return lines

    def _note_away(self, error: Away) -> None:
        """Log that the SuperLink is away; raise ``error`` once that is so for too long."""
        now = self.clock()
        if self.away_since is None:
            self.log(f"the SuperLink is away; waiting for it ({error})")
            self.away_since = now
        elif now - self.away_since > PATIENCE:
            raise error


def _reason(run: SubmittedRun) -> str:
    return run.details or "no reason given"


def read_pairs(texts: Sequence[str]) -> dict[str, str]:
    """Return ``key=value`` pairs as ``flwr run -c`` takes them; raise UserError for others."""
    pairs = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key or '"' in value:
            raise UserError(f"-c {text[:80]!r}: write key=value, without double quotes")
        pairs[key] = value
    return pairs
