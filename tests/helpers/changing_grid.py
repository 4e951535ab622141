"""A federation whose nodes change in the middle of a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from flwr.app import Message

from tests.helpers.runs import grid_of
from tests.helpers.tampering import of_round
from tests.loopback import LoopbackGrid


class ChangingGrid(LoopbackGrid):
    """Changes its nodes when the first order of a round arrives at a node."""

    def when(self, number: int, change: Callable[[], None]) -> ChangingGrid:
        """Call ``change`` once, in round ``number``."""
        changed: list[int] = []

        def tamper(message: Message, reply: Message) -> Message:
            if of_round(message) == number and not changed:
                changed.append(number)
                change()
            return reply

        self.tamper = tamper
        return self


def changing_grid(output: Path) -> ChangingGrid:
    """Return a grid with the nodes of `grid_of`."""
    grid = grid_of(output)
    return ChangingGrid(grid.nodes, grid.run_config)
