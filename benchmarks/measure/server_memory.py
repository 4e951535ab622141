"""The most memory that the processes of a server take, seen from outside."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.flower.process_tree import descendants, memory_of

POLL = 0.5  # seconds between two looks


@dataclass
class ServerMemory:
    """Looks at processes and at all that they start, in a thread of its own, until it is left.

    Parameters
    ----------
    leaders : sequence of int
        Process ids of the server.

    Attributes
    ----------
    most : float
        Most bytes of all of them together at one time (PSS). Of a page that a process outside shares,
        too, a part is counted.
    """

    leaders: Sequence[int]
    most: float = 0.0

    def __enter__(self) -> ServerMemory:
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def look(self) -> None:
        """Note the memory of now."""
        family = {pid for each in self.leaders for pid in (each, *descendants(each))}
        self.most = max(self.most, sum(map(memory_of, family)))

    def _look(self) -> None:
        self.look()
        while not self._over.wait(POLL):
            self.look()
