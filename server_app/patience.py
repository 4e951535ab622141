"""How long the server waits, when it looks again, and how often it says what it waits for."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection

SAY_EVERY = 30.0  # seconds between two lines about the same waiting
LONGEST_PAUSE = 30.0  # seconds between two attempts
LONGEST_CLOSED = 600.0  # the same, where it is the sites' own hours that leave too few
LOOK = 2.0  # seconds of a pause between two looks at who is there
Log = Callable[[str], None]


def pause_length(attempt: int, poll: float, *, closed: bool) -> float:
    """Return the seconds to wait after an attempt: twice as long each time, up to a limit.

    Parameters
    ----------
    attempt : int
        How many attempts there were before this one.
    poll : float
        The first pause, in seconds.
    closed : bool
        Whether all that is missing is outside its own hours. Asking soon gains nothing then, and
        who could train would do so in vain: the limit is ten minutes instead of half a minute.
    """
    longest = LONGEST_CLOSED if closed else LONGEST_PAUSE
    return min(longest, poll * (1 << min(attempt, 16)))  # a bounded power, however often


class Patience:
    """One wait: when it ends, and what is said meanwhile.

    Parameters
    ----------
    log : callable
        Takes a line.
    seconds : float
        How long to wait, from the first call of `begin`.
    silent : float
        Seconds before the first line may be said.
    """

    def __init__(self, log: Log, seconds: float, *, silent: float = 0.0) -> None:
        self._log, self._seconds = log, seconds
        self._ends = math.inf
        self._next_line = time.monotonic() + silent

    def begin(self) -> Patience:
        """Let the time run from now on, if it does not yet; return the same object."""
        if self._ends == math.inf:
            self._ends = time.monotonic() + self._seconds
        return self

    def is_over(self, extra: float = 0.0) -> bool:
        """Return whether the time, and ``extra`` seconds more, have passed."""
        return time.monotonic() >= self._ends + extra

    def remind(self, text: str) -> None:
        """Log ``text`` at once, and then again every ``SAY_EVERY`` seconds, not at every look."""
        now = time.monotonic()
        if now >= self._next_line:
            self._log(text)
            self._next_line = now + SAY_EVERY

    def look_again(self, poll: float) -> None:
        """Sleep until the next look, ``poll`` seconds."""
        time.sleep(poll)

    def pause(
        self, attempt: int, poll: float, *, closed: bool, interrupted: Callable[[], object]
    ) -> None:
        """Sleep before another attempt, as long as `pause_length` says and the wait goes on.

        Parameters
        ----------
        interrupted : callable
            Looks at who is there, every ``LOOK`` seconds; anything true ends the pause.
        """
        until = min(self._ends, time.monotonic() + pause_length(attempt, poll, closed=closed))
        while (left := until - time.monotonic()) > 0:
            time.sleep(min(left, LOOK))
            if left > LOOK and interrupted():
                return


class Backoff:
    """When a node that could not take part is asked again: later each time.

    The first pause is ``SAY_EVERY`` seconds, each further one twice as long, up to ``most``.

    Parameters
    ----------
    most : float
        The longest pause, in seconds.
    """

    def __init__(self, most: float) -> None:
        self._most = most
        self._times: dict[int, tuple[float, float]] = {}  # by node: when, and the pause after that

    def postpone(self, node_id: int, *, longer: bool = True) -> None:
        """Begin a node's next pause; unless it is to grow ``longer``, the shortest one."""
        pause = self._times.get(node_id, (0.0, SAY_EVERY))[1] if longer else SAY_EVERY
        following = min(2 * pause, self._most) if longer else SAY_EVERY
        self._times[node_id] = (time.monotonic() + pause, following)

    def forget(self, node_id: int) -> None:
        """Ask a node no more; its next pause would be the shortest again."""
        self._times.pop(node_id, None)

    def retain(self, nodes: Collection[int]) -> None:
        """Forget all nodes but these."""
        self._times = {node: times for node, times in self._times.items() if node in nodes}

    def due(self) -> set[int]:
        """Return the nodes whose pause is over."""
        now = time.monotonic()
        return {node for node, (when, _) in self._times.items() if when <= now}
