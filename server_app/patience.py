"""How long the server waits, when it looks again, and how often it says so."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

LONGEST_PAUSE = 30.0  # seconds between two attempts at a round
LONGEST_CLOSED = 600.0  # and where it is sites' own hours that leave it short
LOOK = 2.0  # seconds of a pause between two looks at who is there


Log = Callable[[str], None]
SAY_EVERY = 30.0  # seconds between two lines about the same waiting


@dataclass
class Reminder:
    """Says a line at once, and again when ``SAY_EVERY`` seconds have passed, not at every look."""

    log: Log
    due: float = 0.0

    def __call__(self, text: str) -> None:
        """Log ``text`` if it is time."""
        now = time.monotonic()
        if now >= self.due:
            self.log(text)
            self.due = now + SAY_EVERY
