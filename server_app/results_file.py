"""results.json while a run goes on: written after a round, unless that takes too much of the time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from server_app.disk_room import writing
from server_app.run_folder import RunFolder, write_json

NAME = "results.json"
CHEAP = 0.05  # seconds: a file that is written as quickly is written after every round
MOST = 1 / 20  # of a run's time, for others: the file has all rounds and grows with each


class ResultsFile:
    """Writes a run's results.json.

    Parameters
    ----------
    folder : RunFolder
        The run's.
    clock : callable
        Returns seconds.

    Attributes
    ----------
    is_behind : bool
        Whether the last round that asked is not in the file.
    """

    def __init__(self, folder: RunFolder, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder, self._clock = folder, clock
        self._next = 0.0
        self.is_behind = False

    def is_due(self) -> bool:
        """Return whether the file should be written after this round."""
        self.is_behind = self._clock() < self._next
        return not self.is_behind

    def write(self, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Write what ``make`` returns, and return it; UserError where the disk does not take it."""
        begun = self._clock()
        content = make()
        with writing(NAME, self._folder.path):
            write_json(self._folder.path / NAME, content)
        ended = self._clock()
        took = ended - begun
        self._next = ended + (took / MOST if took > CHEAP else 0.0)
        self.is_behind = False
        return content
