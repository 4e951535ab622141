"""When a run's checkpoint is written: after every so many rounds, at the end, and where it breaks off."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from fedstrata.support.errors import UserError
from server_app.choosing import best_rounds
from server_app.disk_room import writing
from server_app.patience import Log
from server_app.rounds.state import GroupCheckpoint, ServerState
from server_app.run_folder import KEPT, RunFolder
from strategies.config import ChooseConfig, StrategyConfig

MOST_BACK = 2  # checkpoints that a run goes back where a state is of no use


@dataclass(frozen=True)
class _Unsaved:
    """What a checkpoint has of the last round, as it was when that ended; no later round changes it."""

    groups: Mapping[str, GroupCheckpoint]
    history: list[dict[str, Any]]


class Checkpoints:
    """Writes a run's checkpoints; the last round that needs none yet is kept in memory.

    Parameters
    ----------
    folder : RunFolder
        The run's.
    settings : StrategyConfig
        After how many rounds one is written.
    choose : ChooseConfig
        Which state is the best: its checkpoint stays.
    """

    def __init__(self, folder: RunFolder, settings: StrategyConfig, choose: ChooseConfig) -> None:
        self._folder, self._settings, self._choose = folder, settings, choose
        self._unsaved: _Unsaved | None = None

    def after_round(self, state: ServerState, history: Sequence[dict[str, Any]]) -> bool:
        """Take in the state after the last round of ``history``; return whether it is on disk now."""
        self._unsaved = _Unsaved(state.to_checkpoints(), list(history))
        return self._settings.saves(len(history)) and self.write() is not None

    def write(self) -> dict[str, Any] | None:
        """Write the checkpoint of the last round if it has none; return that round's record, or None.

        Raises
        ------
        UserError
            It cannot be written.
        """
        if self._unsaved is None:
            return None
        groups, history = self._unsaved.groups, self._unsaved.history
        number = len(history)
        with writing(f"the checkpoint of round {number}", self._folder.path):
            self._folder.save(
                number,
                {key: each.state for key, each in groups.items()},
                {key: each.optimizer for key, each in groups.items()},
                history,
                {key: each.published for key, each in groups.items()},
                best=self._best(history),
            )
        self._unsaved = None
        return history[-1]

    def go_back(self, number: int) -> int:
        """Forget what is not on disk; return the newest checkpoint up to round ``number``, 0 for none."""
        self._unsaved = None
        return max((each for each in self._folder.rounds() if each <= number), default=0)

    def to_resume_from(self) -> list[int]:
        """Return the rounds of the last checkpoints, ascending; 0 where there is none yet.

        Nothing where every round has one: sites keep their own layers of the last rounds anyway.
        """
        if self._settings.checkpoint_every == 1:
            return []
        return self._folder.rounds()[-KEPT:] or [0]

    def _best(self, history: Sequence[dict[str, Any]]) -> set[int]:
        """Return the rounds of the best states, now and if the run goes back by checkpoints."""
        ends = {len(history), *self._folder.rounds()[-MOST_BACK:]}
        every = self._settings.checkpoint_every
        return best_rounds(history, self._choose, ends, saved_every=every)


def again(first: int, last: int) -> str:
    """Return which rounds are played again, or "" where none is."""
    if last < first:
        return ""
    which = f"round {first} is" if first == last else f"rounds {first} to {last} are"
    return f"; {which} played again"


@contextmanager
def saved_where_it_ends(
    checkpoints: Checkpoints, ended: Callable[[dict[str, Any] | None], None], log: Log
) -> Iterator[None]:
    """Write what is not on disk when the block ends, also where an error or a person ends it.

    ``ended`` takes the record of the round whose checkpoint was written then, or None.
    """
    try:
        yield
    except BaseException:
        try:
            ended(checkpoints.write())
        except UserError as error:  # what ended the run is the reason that people need
            log(f"the last rounds are not saved: {error.public}")
        raise
    ended(checkpoints.write())
