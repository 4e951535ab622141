"""The base of the robust aggregators, which need all updates of a round at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from strategies.aggregators.base import Aggregator, Options, Tensors, require
from strategies.aggregators.reply_buffer import ReplyBuffer


@dataclass(frozen=True)
class BufferedOptions(Options):
    """The memory for a round's replies; see conf/aggregator/median.yaml."""

    memory_mb: float

    def check(self, where: str) -> None:
        """Raise UserError for a value out of its range."""
        require(self.memory_mb > 0, f"{where}.memory_mb", "greater than 0", self.memory_mb)


class BufferedAggregator(Aggregator):
    """Keeps the updates by site until ``finish``: up to ``memory_mb`` in memory, the rest on disk.

    All sites have the same weight: a malicious one could claim any number of examples. The updates
    are combined in the order of the sites' names, so that the order of arrival does not matter.
    """

    options_type: ClassVar[type[Options]] = BufferedOptions

    def __init__(self, options: BufferedOptions) -> None:
        super().__init__(options)
        self.memory_mb = options.memory_mb
        self._replies = ReplyBuffer({}, 0)

    def _reset(self) -> None:
        super()._reset()
        self._replies.close()

    def _fold(self, site: str, update: Tensors, examples: int) -> None:
        if not len(self._replies):
            self._replies = ReplyBuffer(self._current, int(self.memory_mb * 1e6))
        self._replies.add(site, update)
