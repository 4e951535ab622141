"""A run as its tracker gets it: every round once; what fails there never ends the run."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from server_app.run_folder import write_json
from server_app.trackers.logged import (
    ENDS,
    MOST_SITES,
    left_out,
    of_deployment,
    of_end,
    of_round,
    parameters,
)
from server_app.trackers.tracker import NoTracker, Tracker

FILE = "tracker.json"  # in the run's folder: how far the tracker has come
MOST_FAILURES = 3  # one after the other; then the tracker is left alone until the end
_SHOWN = 300  # characters of an error

logger = logging.getLogger("flwr")
Log = Callable[[str], None]


class Progress(msgspec.Struct, forbid_unknown_fields=True):
    """How far a tracker has come with a run.

    Parameters
    ----------
    tracker, place : str
        Which one, and where; another one begins anew.
    known : str
        By what the tracker knows the run.
    parameters : bool
        Whether they are written.
    rounds : int
        The last round that is written.
    ends : list of str
        Which of ``final``, ``best`` and ``deployment`` are written.
    """

    tracker: str
    place: str
    known: str = ""
    parameters: bool = False
    rounds: int = 0
    ends: list[str] = msgspec.field(default_factory=list)


class Tracking:
    """Writes a run down with a tracker; `update` may come as often as results.json is written.

    What a tracker could not take is written with the next update, or when the run is resumed.

    Parameters
    ----------
    tracker : Tracker
        Where to.
    run : Path
        The run's folder.
    log : callable
        Takes text for the log.
    """

    def __init__(self, tracker: Tracker, run: Path, log: Log) -> None:
        self.tracker, self.file, self.log = tracker, run / FILE, log
        self.tries = self.failures = self._in_a_row = 0
        self._begun = False
        self._results: Mapping[str, Any] = {}

    def __enter__(self) -> Tracking:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        """End as the block did: complete, failed, or stopped by a person."""
        if error is None:
            return self.end("complete")
        self.end("failed" if isinstance(error, Exception) else "stopped")

    def update(self, results: Mapping[str, Any]) -> None:
        """Write what is new in ``results``, which is what results.json holds."""
        self._results = results
        if not isinstance(self.tracker, NoTracker) and self._in_a_row < MOST_FAILURES:
            self._try(self._catch_up)

    def end(self, state: str) -> None:
        """Write what is missing, end with ``state``, and say what failed."""
        if isinstance(self.tracker, NoTracker):
            return
        if self._results and self._in_a_row:
            self._try(self._catch_up)
        if self._begun:
            self._try(lambda: self.tracker.end(state))
        if self.failures:
            self.log(
                f"tracker: {self.failures} of {self.tries} writes to {self.tracker.place} failed; "
                f"{self._missing()}"
            )

    def _try(self, action: Callable[[], None]) -> None:
        self.tries += 1
        try:
            action()
        except Exception as error:  # whatever a foreign library raises: the run is worth more
            self.failures += 1
            self._in_a_row += 1
            first = (str(error).strip() or type(error).__name__).splitlines()[0][:_SHOWN]
            if self._in_a_row == 1:
                self.log(
                    f"tracker: {self.tracker.place} does not take what the run writes ({first}); "
                    "the run goes on, and it is tried again with the next round"
                )
            elif self._in_a_row == MOST_FAILURES:
                self.log(f"tracker: {MOST_FAILURES} failures in a row, the next try is at the end")
            logger.debug("tracker", exc_info=error)
        else:
            self._in_a_row = 0

    def _catch_up(self) -> None:
        results, progress = self._results, self._progress()
        rounds = results["rounds"]
        if progress.rounds > len(rounds):  # the run went back
            progress.rounds, self._begun = len(rounds), False
        if not self._begun:
            # After the rounds comes one step of all that is measured at the end.
            first = progress.rounds + (2 if progress.ends else 1)
            progress.known = self.tracker.begin(progress.known, first)
            self._begun = True
            self._note(progress)
            self.log(f"tracker: {self.tracker.place}, run {progress.known}")
            if sites := left_out(results):
                self.log(
                    f"tracker: the numbers of {sites} sites are not written one by one (at most "
                    f"{MOST_SITES}), those of the tasks are"
                )
        if not progress.parameters:
            self.tracker.parameters(parameters(results))
            progress.parameters = True
            self._note(progress)
        for record in rounds[progress.rounds :]:
            self.tracker.metrics(of_round(record), record["round"])
            progress.rounds = record["round"]
            self._note(progress)
        for what in (*ENDS, "deployment"):
            if results.get(what) is not None and what not in progress.ends:
                numbers = (
                    of_deployment(results[what]) if what == "deployment" else of_end(results, what)
                )
                self.tracker.metrics(numbers, len(rounds) + 1)
                progress.ends.append(what)
                self._note(progress)

    def _progress(self) -> Progress:
        """Return how far this tracker has come; from the start where that cannot be read."""
        fresh = Progress(self.tracker.options["name"], self.tracker.place)
        try:
            read = msgspec.json.decode(self.file.read_bytes(), type=Progress)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
            return fresh
        return read if (read.tracker, read.place) == (fresh.tracker, fresh.place) else fresh

    def _note(self, progress: Progress) -> None:
        write_json(self.file, json.loads(msgspec.json.encode(progress)))

    def _missing(self) -> str:
        progress, rounds = self._progress(), len(self._results.get("rounds", ()))
        if progress.rounds < rounds:
            span = f"{progress.rounds + 1} to {rounds}"
            return f"rounds {span} are missing there, and results.json has them"
        return "nothing is missing there"
