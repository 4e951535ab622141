"""What running processes take, seen from outside: their memory, their processor time, ends of rounds."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np

from benchmarks.flower.process_tree import descendants, memory_of, processor_of
from benchmarks.flower.processes import Processes
from benchmarks.flower.round_ends import RoundEnds, note_round_ends
from benchmarks.measure.looking import Looking

SELDOM = 5  # of so many looks is one at memory too, and at which processes there are


@dataclass
class Watch(Looking):
    """Looks at the processes that were started, and all that they started.

    Parameters
    ----------
    processes : Processes
        Those that are watched, and their descendants.
    output : Path or None
        Folder of our runs, whose checkpoints show the ends of rounds.

    Attributes
    ----------
    memory : float
        Most bytes of all processes together; what they share is counted once.
    processor : list of (float, float)
        Second of the clock, and the processor seconds of all processes until then.
    ends : dict
        When each round of our runs ended.
    """

    processes: Processes
    output: Path | None = None
    memory: float = 0.0
    processor: list[tuple[float, float]] = field(default_factory=list)
    ends: RoundEnds = field(default_factory=dict)
    _family: list[int] = field(default_factory=list)
    _glances: int = 0
    poll: ClassVar[float] = 0.1

    def between(self, start: float, end: float) -> float:
        """Return the processor seconds from ``start`` to ``end``, both seconds of the clock."""
        moments, seconds = zip(*self.processor, strict=True)
        before, after = np.interp([start, end], moments, seconds)
        return float(after - before)

    def look(self) -> None:
        """Note memory, processor times and checkpoints as they are now."""
        leaders = [each.popen.pid for each in self.processes.started if not each.ended]
        self._family = sorted({pid for each in leaders for pid in (each, *descendants(each))})
        self.memory = max(self.memory, sum(map(memory_of, self._family)))
        self._note_processor()

    def glance(self) -> None:
        """Note processor times and checkpoints, and seldom the rest."""
        self._glances += 1
        if self._glances % SELDOM == 0:
            self.look()
        else:
            self._note_processor()

    def _note_processor(self) -> None:
        if self.output is not None:
            note_round_ends(self.output, self.ends)
        # A process that has ended takes its seconds with it until its parent asks for them.
        before = self.processor[-1][1] if self.processor else 0.0
        seconds = sum(map(processor_of, self._family))
        self.processor.append((time.time(), max(before, seconds)))
