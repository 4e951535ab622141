"""What the app prints, on its way into the site's log: marked as the app's, clean, and bounded.

The app writes into a pipe and never into the log itself. So it can neither write a line that looks
like the guard's, nor control a terminal that shows the log, nor fill the disk.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections.abc import Callable

from fedstrata.protocol.limits import printable

logger = logging.getLogger("flwr")
MARK = "the app | "
MOST_CHARACTERS = 1_000  # of one line; the rest of it is dropped
BURST, SUSTAINED = 200_000.0, 2_000.0  # bytes at once; bytes a second from then on
_CHUNK = 1 << 16
_AROUND = 40  # bytes that the log puts around a line, with the mark
_COLORS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class Allowance:
    """How much may be logged now: a burst, which fills up again slowly.

    Parameters
    ----------
    clock : callable
        Returns seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._left, self._at = clock, BURST, clock()

    def take(self, size: int) -> bool:
        """Whether ``size`` bytes may be logged; if so, they are counted."""
        now = self._clock()
        self._left = min(BURST, self._left + (now - self._at) * SUSTAINED)
        self._at = now
        if size > self._left:
            return False
        self._left -= size
        return True


class Lines:
    """Makes lines for the log out of bytes as they come; keeps no more than one line.

    Parameters
    ----------
    write : callable
        Logs one line.
    allowance : Allowance
        What may be logged.
    """

    def __init__(self, write: Callable[[str], None], allowance: Allowance) -> None:
        self._write, self._allowance = write, allowance
        self._begun = b""
        self._dropped = 0

    def feed(self, data: bytes) -> None:
        """Take bytes that the app printed."""
        *whole, rest = data.split(b"\n")
        for part in whole:
            self._line(self._begun + part)
            self._begun = b""
        # Four bytes a character at most: what is beyond them would be cut off in any case.
        self._begun = (self._begun + rest)[: 4 * MOST_CHARACTERS + 4]

    def finish(self) -> None:
        """Log what was printed without an end of the line."""
        if self._begun:
            self._line(self._begun)
        self._begun = b""
        self._count()

    def _line(self, line: bytes) -> None:
        line = line[: 4 * MOST_CHARACTERS + 4]
        if not self._allowance.take(min(len(line), MOST_CHARACTERS) + _AROUND):
            self._dropped += 1
            return
        text = _COLORS.sub("", line.decode(errors="replace"))
        text = printable(text.rstrip("\r").expandtabs(4))
        if len(text) > MOST_CHARACTERS:
            text = text[:MOST_CHARACTERS] + " ..."
        self._count()
        self._write(MARK + text)

    def _count(self) -> None:
        if self._dropped:
            self._write(f"the app printed too much: {self._dropped} lines of it are dropped")
            self._dropped = 0


class AppLog:
    """A pipe for what an app's process prints, and the thread that logs it until the pipe closes."""

    def __init__(self, allowance: Allowance) -> None:
        self._reader, self.writer = os.pipe()
        self._lines = Lines(lambda line: logger.info("%s", line), allowance)
        self._thread = threading.Thread(target=self._run, name="app-log", daemon=True)

    def started(self) -> None:
        """Begin to log, once the app's process has the other end of the pipe."""
        os.close(self.writer)
        self._thread.start()

    def abandon(self) -> None:
        """Close the pipe of a process that could not be started."""
        os.close(self.writer)
        os.close(self._reader)

    def finish(self, seconds: float) -> None:
        """Wait until all that the app printed is logged; not longer than ``seconds``."""
        self._thread.join(seconds)

    def _run(self) -> None:
        while data := os.read(self._reader, _CHUNK):
            self._lines.feed(data)
        self._lines.finish()
        os.close(self._reader)
