"""The base of teachers: they make a group that goes down only, of what sites sent in the round."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import ClassVar

import torch
from torch import Tensor

from fedstrata.protocol.tensors import TensorSpec
from models.threads import with_threads
from strategies.aggregators.base import (
    Aggregator,
    Options,
    RoundFacts,
    Tensors,
    copied,
    unusable,
)
from strategies.aggregators.class_points import Points, limited, points_of
from strategies.aggregators.fedavg import MAX_MAGNITUDE
from strategies.config import UNBOUNDED, TeacherConfig


@dataclass(frozen=True)
class Lesson:
    """What a teacher learns from, not to be changed.

    Parameters
    ----------
    number : int
        The round.
    seed : int
        The run's.
    states : mapping of str to Tensors
        By group that it `reads`, the state that the server made of this round's updates.
    updates : mapping of str to mapping
        By group of `needs_updates`, the tensors that each site sent, by site in order of the names.
    examples : mapping of str to int
        What each site counts as, of those in ``updates``.
    bounds : TeacherConfig
        What learning may take and give.
    ends : float
        When it has to end, by ``clock``.
    clock : callable
        Returns seconds.
    notes : list of str
        What the log and results.json say of the lesson; to be added to.
    """

    number: int
    seed: int
    states: Mapping[str, Tensors]
    updates: Mapping[str, Mapping[str, Tensors]]
    examples: Mapping[str, int]
    bounds: TeacherConfig = UNBOUNDED
    ends: float = inf
    clock: Callable[[], float] = time.monotonic
    notes: list[str] = field(default_factory=list)

    def within_time(self, count: int, what: str = "steps") -> Iterator[int]:
        """Yield 0 to ``count - 1`` until the time is over, and note where that is before the end."""
        for number in range(count):
            if number and self.clock() >= self.ends:
                self.notes.append(
                    f"the server stopped after {number} of {count} {what}, for it took longer than "
                    f"{self.bounds.seconds:g} s (strategy.teacher.seconds)"
                )
                return
            yield number

    def class_points(self, group: str) -> Points:
        """Return the class means that sites sent in ``group``, none with too much influence; note it."""
        sent = self.updates[group]
        of_each = {site: points_of(each, self.examples[site]) for site, each in sent.items()}
        points, notes = limited(of_each, self.bounds)
        self.notes.extend(notes)
        return points


class Teacher(Aggregator):
    """Makes the next state of a group that sites receive and never send.

    A round is ``inform``, ``begin``, any number of ``hear`` in any order, ``learn``. The order of the
    ``hear`` does not change a bit of the result. A subclass overrides `_learn`; what it keeps from
    round to round is in `state_dict`, and so in every checkpoint.

    Attributes
    ----------
    reads : tuple of str
        Groups that sites send in the round, whose new states it gets. One without tensors is left out.
    needs_updates : tuple of str
        Groups of which it needs each site's own update: no node may send sums then.
    """

    learns: ClassVar[bool] = True
    takes_sums: ClassVar[bool] = True
    needs_updates: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.takes_sums = not cls.needs_updates

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._facts: RoundFacts | None = None
        self._heard: dict[str, dict[str, Tensors]] = {}
        self._bytes = 0  # of all that was heard
        self.clock: Callable[[], float] = time.monotonic

    def inform(self, facts: RoundFacts) -> None:
        """Take the round's number and the seed."""
        self._facts = facts

    def hear(self, site: str, group: str, update: Tensors, examples: int) -> None:
        """Take what a site sent of a group in `needs_updates`; it is not changed, and kept till `learn`.

        Raises
        ------
        ValueError
            For another group, or a site that was heard of it already.
        """
        if group not in self.needs_updates:
            raise ValueError(f"{type(self).__name__} needs no single updates of {group!r}")
        heard = self._heard.setdefault(group, {})
        if site in heard:
            raise ValueError(f"site {site!r} was heard of {group!r} already")
        self._answered[site] = examples
        self._bytes += sum(tensor.nbytes for tensor in update.values())
        heard[site] = update
        # Where it is too much nothing is kept, so that the order of arrival does not matter.
        if not self._fits():
            self._heard = {group: {each: {} for each in of} for group, of in self._heard.items()}

    def learn(self, states: Mapping[str, Tensors]) -> dict[str, Tensor] | None:
        """End the round; return the group's next state, or None, with a note, if it does not change.

        What it learns is of no use where a value is not finite or above ``MAX_MAGNITUDE``, or the norm
        above the bound: sites would compute with it. The state stays as it was then, as where the
        updates take more memory than they may.

        Parameters
        ----------
        states : mapping of str to Tensors
            By group that it `reads`, the state after the round.
        """
        assert self._facts is not None
        bounds = self._facts.bounds
        if not self._fits():
            self.note = (
                f"the updates of {len(self._answered)} sites take {self._bytes / 1e6:.4g} MB, at most "
                f"{bounds.memory_mb:g} are kept (strategy.teacher.memory_mb): the server learned nothing"
            )
            self._reset()
            return None
        heard = {group: dict(sorted(each.items())) for group, each in self._heard.items()}
        updates = {group: heard.get(group, {}) for group in self.needs_updates}
        lesson = Lesson(
            self._facts.number,
            self._facts.seed,
            states,
            updates,
            dict(sorted(self._answered.items())),
            bounds,
            self.clock() + bounds.seconds,
            self.clock,
        )
        before = self.state_dict()
        try:
            with torch.random.fork_rng(devices=[]), with_threads(self._facts.threads):
                made = self._learn(lesson)
            if lesson.notes:
                self.note = "; ".join(lesson.notes)
            if made is None:
                return None
            self._check_alike(made)
            problem = _too_large({**made, **self.state_dict()}) or unusable(
                self.judged(made), bounds.norm
            )
            if problem:
                self.load_state_dict(before)
                self.note = f"what the server learned is left out: {problem}"
                return None
            return copied(made)
        finally:
            self._reset()

    def _fits(self) -> bool:
        return self._facts is None or self._bytes <= self._facts.bounds.memory_mb * 1e6

    def _check_alike(self, made: Tensors) -> None:
        specs = {name: TensorSpec.of(tensor) for name, tensor in made.items()}
        if specs != {name: TensorSpec.of(tensor) for name, tensor in self._current.items()}:
            raise ValueError(f"{type(self).__name__} made other tensors than the group has")

    def _reset(self) -> None:
        super()._reset()
        self._heard, self._bytes = {}, 0

    @abstractmethod
    def _learn(self, lesson: Lesson) -> dict[str, Tensor] | None:
        """Return the next state from ``self._current``; torch's generator may be seeded freely."""

    def _fold(self, site: str, update: Tensors, examples: int) -> None:
        raise TypeError(f"no site sends what {type(self).__name__} makes")

    def _combine(self) -> dict[str, Tensor] | None:
        raise TypeError(f"{type(self).__name__} learns from other groups: call learn")


def _too_large(tensors: Tensors) -> str:
    """Return which tensor is not finite or too large, or ""."""
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            return f"{name} is not finite"
        if tensor.is_floating_point() and float(tensor.abs().max()) > MAX_MAGNITUDE:
            return f"{name} has a value above {MAX_MAGNITUDE:g}"
    return ""
