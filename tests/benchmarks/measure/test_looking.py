"""A thread looks at the start, again and again, and at the end."""

from __future__ import annotations

import threading
from typing import ClassVar

from benchmarks.measure.looking import Looking


class Counted(Looking):
    """Counts its looks and its glances, and says when there were three of these."""

    poll: ClassVar[float] = 0.001

    def __init__(self) -> None:
        self.looks = self.glances = 0
        self.three = threading.Event()

    def look(self) -> None:
        self.looks += 1

    def glance(self) -> None:
        self.glances += 1
        if self.glances == 3:
            self.three.set()


def test_the_first_and_the_last_look_are_whole_and_glances_lie_between() -> None:
    with Counted() as counted:
        assert counted.looks == 1
        assert counted.three.wait(60)
    assert counted.looks == 2
    assert not counted._thread.is_alive()
