"""Writes down where a run is: progress.json, which people watch while it goes on."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from fedstrata.protocol import kinds
from fedstrata.protocol.limits import one_line
from fedstrata.protocol.progress import (
    Progress,
    RunState,
    SiteProgress,
    SiteState,
    read_progress,
    state_of_missed,
    write_progress,
)
from fedstrata.support.errors import UserError
from server_app.time_left import Stage, TimeLeft

if TYPE_CHECKING:  # this module is imported before torch is
    from server_app.rounds.records import RoundRecord

logger = logging.getLogger("flwr")
SECONDS = 0.5  # between two writes, at least
COST = 20  # a write waits so many times as long as the last one took: at most 5 % of the time
STATES: Mapping[str, RunState] = {
    kinds.OPEN: "running",
    kinds.TRAIN: "running",
    kinds.EVALUATE: "evaluating",
    kinds.ALONE: "evaluating",
    kinds.CROSS: "evaluating",
    kinds.POOLED: "evaluating",
    kinds.DEPLOY: "fine-tuning",
}
OF_A_ROUND = ("working", "answered", "trained", "late")  # over when the next one begins


class RunProgress:
    """Where a run is, on disk beside its results.

    Parameters
    ----------
    folder : Path or None
        The run's; None writes nothing.
    clock : callable
        Returns unix seconds.

    Attributes
    ----------
    played_before : int
        How many rounds an earlier start of the run completed; of some there may be no checkpoint.
    """

    def __init__(self, folder: Path | None = None, clock: Callable[[], float] = time.time) -> None:
        self._folder, self._clock = folder, clock
        self._next_write = self._cost = 0.0
        self.played_before = _played_before(folder)
        self.now = Progress(state="waiting", began=clock(), complete=self.played_before)
        self._left = TimeLeft(clock())

    @contextmanager
    def of_run(self) -> Iterator[None]:
        """Note how the block ends: complete, failed with its reason, or stopped."""
        try:
            self._change(state="waiting", reason="asks who is there")
            yield
        except UserError as error:
            self._end("failed", error.public)
            raise
        except Exception as error:
            self._end("failed", f"{type(error).__name__}: {error}")
            raise
        except BaseException:  # Ctrl-C, `flwr stop`
            self._end("stopped", "it was stopped before its end")
            raise
        self._end("complete", "")

    def begin(
        self, rounds: int, history: Sequence[Mapping[str, Any]], afterwards: Sequence[Stage]
    ) -> None:
        """Note how long the run is, and what of it is done.

        Parameters
        ----------
        rounds : int
            How many there will be.
        history : sequence of mapping
            The records of those that are complete.
        afterwards : sequence of Stage
            What comes after them, as of `stages_after`.
        """
        self._left.begin(rounds, afterwards)
        self._count(history, rounds)

    def join(self, tasks: Mapping[str, str]) -> None:
        """Note the sites that take part, by name with their task, or their task and model."""
        sites = {
            name: SiteProgress(task=task, state="waiting") for name, task in sorted(tasks.items())
        }
        self._change(sites={**self.now.sites, **sites})

    def saying(self, log: Callable[[str], None]) -> Callable[[str], None]:
        """Return ``log``, of which each text is also noted as what the run waits for."""

        def say(text: str) -> None:
            log(text)
            self._change(reason=one_line(text.partition("\n")[0]))

        return say

    def wait(self, reason: str, missing: Mapping[str, str]) -> None:
        """Note what is waited for, and which sites are missing, with the reason of each."""
        self._set({site: ("absent", why) for site, why in missing.items()})
        self._change(state="waiting", reason=one_line(reason), seconds_left=None)

    def ask(self, kind: str, number: int, sites: Iterable[str]) -> None:
        """Note that sites were sent an order of a kind, in a round."""
        state = STATES.get(kind)
        if state is None:  # a checkpoint on its way is no stage of the run
            return
        self._left.ask(kind, self._clock())
        over = {n: ("waiting", "") for n, s in self.now.sites.items() if s.state in OF_A_ROUND}
        self._set({**over, **dict.fromkeys(sites, ("working", ""))})  # type: ignore[dict-item]
        self._change(state=state, reason="", round=min(number, self.now.rounds or number))

    def look(self, record: RoundRecord, pending: Collection[str]) -> None:
        """Note what is known while answers are awaited: ``pending`` sites did not answer yet."""
        if self._clock() < self._next_write:
            return
        done = {
            name: ("answered", "")
            for name, site in self.now.sites.items()
            if site.state == "working" and name not in pending
        }
        self._set({**done, **_of_record(record)})  # type: ignore[dict-item]
        self._change()

    def played(
        self,
        record: RoundRecord,
        history: list[dict[str, Any]],
        alone: Mapping[str, float] | None = None,
    ) -> None:
        """Note a complete round.

        ``history`` has the records of all of them, and ``alone`` what sites reach alone.
        """
        self.now = replace(self.now, alone=dict(alone or {}))
        self._set(_of_record(record))
        self._count(history, self.now.rounds)

    def _count(self, history: Sequence[Mapping[str, Any]], rounds: int) -> None:
        self._left.played(history, self._clock())
        down, up = (
            sum(sum(each[way].values()) for each in history) for way in ("bytes_down", "bytes_up")
        )
        done = len(history)
        self._change(rounds=rounds, round=done, complete=done, bytes_down=down, bytes_up=up)

    def _set(self, states: Mapping[str, tuple[SiteState, str]]) -> None:
        sites = dict(self.now.sites)
        for name, (state, reason) in states.items():
            task = sites[name].task if name in sites else ""
            sites[name] = SiteProgress(task=task, state=state, reason=one_line(reason))
        self.now = replace(self.now, sites=sites)

    def _end(self, state: RunState, reason: str) -> None:
        self._next_write = 0.0
        self._change(state=state, reason=" ".join(reason.split()), seconds_left=None)

    def _change(self, **changes: Any) -> None:
        before = self.now.state
        self.now = replace(self.now, **changes)
        now = self._clock()
        if self._folder is None or (now < self._next_write and before == self.now.state):
            return
        left = changes["seconds_left"] if "seconds_left" in changes else self._seconds_left(now)
        self.now = replace(self.now, updated=now, seconds_left=left)
        try:
            write_progress(self._folder, self.now)
        except OSError as error:  # no run ends because nobody can watch it
            logger.warning("progress.json of %s cannot be written: %s", self._folder, error)
            self._folder = None
            return
        self._next_write = now + max(SECONDS, COST * (self._clock() - now))

    def _seconds_left(self, now: float) -> float | None:
        """Return the time until the end, all that comes after the rounds included."""
        waits = self.now.ended or self.now.state == "waiting"
        return None if waits else self._left.seconds(now)


def _played_before(folder: Path | None) -> int:
    """Return how many rounds an earlier start of the run completed; 0 where that is not known."""
    try:
        before = None if folder is None else read_progress(folder)
    except UserError:
        return 0
    return 0 if before is None else before.complete


def _of_record(record: RoundRecord) -> dict[str, tuple[SiteState, str]]:
    """Return what a record says of sites: the state of each, and why."""
    found: dict[str, tuple[SiteState, str]] = {}
    missed: tuple[tuple[SiteState, dict[str, str]], ...] = (
        ("refused", record.refused),
        ("late", record.late),
        ("absent", record.absent),
    )
    for what, sites in missed:
        found |= {site: (state_of_missed(what, why), why) for site, why in sites.items()}
    return found | dict.fromkeys(record.participants, ("trained", ""))
