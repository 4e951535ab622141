"""The lines that a ServerApp says, out of the log that its SuperLink keeps, as they come."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from fedstrata.protocol.limits import printable

# A line of Flower's log. What has another beginning is a traceback, or what a library prints.
_LINE = re.compile(
    r"^(?:\x1b\[\d+m)?(INFO|WARNING|ERROR) *(?:[-\d]+ [:,\d]+)?(?:\x1b\[0m)? *:(.*)$"
)
WIDTH = 10  # of the level, and of the spaces behind the colon
Read = Callable[[float], tuple[str, float]]  # from a time on: text, and the time of its last part


def said(text: str) -> Iterator[str]:
    """Yield the app's lines in a text of whole lines, without what could control a terminal."""
    for line in text.splitlines():
        if found := _LINE.match(line):
            level, words = found[1], found[2]
            words = re.sub(rf"^ {{0,{WIDTH - len(level)}}}", "", words)
            yield printable(words if level == "INFO" else f"{level.lower()}: {words}")


@dataclass
class RunLog:
    """The log of one run, each line of which is read once.

    Parameters
    ----------
    read : callable
        Returns the log from a time on, and the time of its last part.
    """

    read: Read
    after: float = 0.0
    unfinished: str = ""

    def new(self) -> Iterator[str]:
        """Yield what was said since the last call."""
        text, self.after = self.read(self.after)
        whole, _, self.unfinished = (self.unfinished + text).rpartition("\n")
        yield from said(whole)
