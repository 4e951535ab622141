"""A run that comes back: it is watched, and submitted again where the SuperLink or its app died."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from consortium.registration import flower
from models.errors import UserError

Flower = Callable[..., dict[str, Any]]
POLL = 5.0  # seconds between two looks
QUICK = 30.0  # a run that fails sooner than this made no progress
PATIENCE = 3600.0  # seconds for which a SuperLink may be away


@dataclass
class KeptRun:
    """Submits a run, and submits it again to be resumed until it has come to its end.

    A SuperLink that crashes ends a run of Flower for good. What the run had learnt is in its
    folder; submitted again under its name, it goes on from the last complete round.

    Parameters
    ----------
    connection : str
        The SuperLink's name in Flower's configuration.
    app : str
        Folder of the app.
    run_config : mapping of str to str
        For ``flwr run -c``; ``name`` and ``resume`` are set here.
    most_failures : int
        Failures in a row, each within ``QUICK`` seconds, after which it is no accident.
    log : callable
        Takes one line.
    flower : callable
        Runs a command of ``flwr`` and returns its JSON.
    """

    connection: str
    app: str
    run_config: dict[str, str]
    most_failures: int = 5
    log: Callable[[str], None] = print
    flower: Flower = flower
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    submitted: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for key in ("name", "resume"):
            if key in self.run_config:
                raise UserError(f"-c {key}=...: the run's {key} is chosen here; leave it away")
        stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
        self.run_config = {**self.run_config, "name": f"kept-{stamp}", "resume": "auto"}

    def run(self) -> None:
        """Return when the run has come to its end.

        Raises
        ------
        UserError
            It failed quickly ``most_failures`` times in a row, was stopped by a person, or the
            SuperLink was away for an hour.
        """
        failures = 0
        while True:
            began = self.clock()
            run_id = self._submit()
            status, details = self._wait(run_id)
            if status == "finished:completed":
                self.log(f"run {run_id}: completed")
                return
            if status == "finished:stopped":
                raise UserError(f"run {run_id} was stopped: {details or 'no reason given'}")
            failures = failures + 1 if self.clock() - began < QUICK else 0
            self.log(f"run {run_id}: {status} ({details or 'no reason given'})")
            if failures >= self.most_failures:
                raise UserError(
                    f"the run failed {failures} times in a row within {QUICK:g} s, the last time "
                    f"with: {details or 'no reason given'}; see `flwr log {run_id} "
                    f"{self.connection}`"
                )
            self.sleep(POLL)

    def _submit(self) -> str:
        pairs = " ".join(f'{key}="{value}"' for key, value in self.run_config.items())
        told = self._persistently("run", self.app, self.connection, "-c", pairs)
        run_id = str(told["run-id"])
        again = "again, to be resumed" if self.submitted else f"as {self.run_config['name']}"
        self.submitted.append(run_id)
        self.log(f"run {run_id}: submitted {again}")
        return run_id

    def _wait(self, run_id: str) -> tuple[str, str]:
        """Wait for the end of a run; return its status and what Flower says about it."""
        while True:
            told = self._persistently("list", self.connection, "--run-id", run_id)
            (run,) = told["runs"]
            status = str(run["status"])
            if status.startswith("finished"):
                return status, str(run.get("status-details") or "")
            self.sleep(POLL)

    def _persistently(self, *command: str) -> dict[str, Any]:
        """Run a command of ``flwr``, again and again while the SuperLink is away."""
        since = self.clock()
        away = False
        while True:
            try:
                told = self.flower(*command)
            except UserError as error:
                if not _is_away(str(error)) or self.clock() - since > PATIENCE:
                    raise
                if not away:
                    self.log(f"the SuperLink is away; waiting for it ({error})")
                    away = True
                self.sleep(POLL)
                continue
            if away:
                self.log("the SuperLink is back")
            return told


def _is_away(said: str) -> bool:
    words = ("UNAVAILABLE", "unavailable", "failed to connect", "Connection refused", "did not end")
    return any(word in said for word in words)


def read_pairs(told: Sequence[str]) -> dict[str, str]:
    """Return ``key=value`` pairs as ``flwr run -c`` takes them; raise UserError for others."""
    pairs = {}
    for text in told:
        key, equals, value = text.partition("=")
        if not equals or not key or '"' in value:
            raise UserError(f"-c {text[:80]!r}: write key=value, without double quotes")
        pairs[key] = value
    return pairs
