"""The most memory that the processes of a server take, seen from outside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from benchmarks.flower.process_tree import descendants, memory_of
from benchmarks.measure.looking import Looking


@dataclass
class ServerMemory(Looking):
    """Looks at processes and at all that they start.

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
    poll: ClassVar[float] = 0.5

    def look(self) -> None:
        """Note the memory of now."""
        family = {pid for each in self.leaders for pid in (each, *descendants(each))}
        self.most = max(self.most, sum(map(memory_of, family)))
