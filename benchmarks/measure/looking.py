"""A thread that looks at running processes again and again, until it is left."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from typing import ClassVar, Self


class Looking(ABC):
    """Looks on entry, then every ``poll`` seconds in a thread of its own, and once more at the end."""

    poll: ClassVar[float]
    """Seconds between two looks."""

    @abstractmethod
    def look(self) -> None:
        """Note what is to be seen now."""

    def glance(self) -> None:
        """Look as the thread does, between the first look and the last."""
        self.look()

    def __enter__(self) -> Self:
        self._over = threading.Event()
        self.look()
        self._thread = threading.Thread(target=self._again, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()
        self.look()

    def _again(self) -> None:
        while not self._over.wait(self.poll):
            self.glance()
