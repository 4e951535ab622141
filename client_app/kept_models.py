"""The built models that a process keeps: as many as fit in memory, the least used go first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Kept = TypeVar("Kept")
MOST_BYTES = 1 << 30  # of the tensors of all models that one process keeps
LEAST = 2  # so many are kept however large they are


@dataclass
class KeptModels(Generic[Kept]):
    """What was made last, by key.

    Parameters
    ----------
    size : callable
        Returns the bytes of one.
    most : int
        Bytes of all that are kept, where they are more than `LEAST`.
    """

    size: Callable[[Kept], int]
    most: int = MOST_BYTES
    _kept: OrderedDict[Hashable, tuple[Kept, int]] = field(default_factory=OrderedDict)

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: Hashable, make: Callable[[], Kept]) -> Kept:
        """Return what is kept under a key, or make it and keep it."""
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key][0]
        made = make()
        self._kept[key] = made, self.size(made)
        while len(self._kept) > LEAST and sum(size for _, size in self._kept.values()) > self.most:
            self._kept.popitem(last=False)
        return made

    def clear(self) -> None:
        """Keep nothing."""
        self._kept.clear()
