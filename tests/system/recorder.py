"""A TCP proxy that keeps what passes through it: the bytes between a SuperNode and its SuperLink."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks.flower.proxy import DOWN, UP, Proxy

__all__ = ["DOWN", "UP", "Recorder"]


@dataclass
class Recorder(Proxy):
    """A line that keeps each direction of each connection as one growing array of bytes.

    So a frame that TCP cuts into pieces is found in one piece.
    """

    taken: list[tuple[str, bytearray]] = field(default_factory=list)

    def mark(self) -> list[int]:
        """Return how far each stream is now, for `since`."""
        return [len(stream) for _, stream in self.taken]

    def since(self, mark: list[int], direction: str) -> list[bytes]:
        """Return what passed in ``direction`` since ``mark``, one entry a connection."""
        starts = [*mark, *[0] * (len(self.taken) - len(mark))]
        return [
            bytes(stream[start:])
            for (way, stream), start in zip(list(self.taken), starts, strict=False)
            if way == direction
        ]

    def observer(self, direction: str) -> Callable[[bytes], object]:
        """Return what keeps the bytes of a new connection."""
        stream = bytearray()
        self.taken.append((direction, stream))
        return stream.extend
