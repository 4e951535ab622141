"""The base of teachers: they make a group that goes down only, of what sites sent in the round."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedstrata.protocol.tensors import TensorSpec
from strategies.aggregators.base import Aggregator, Options, RoundFacts, Tensors, copied
from strategies.aggregators.fedavg import MAX_MAGNITUDE


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
    """

    number: int
    seed: int
    states: Mapping[str, Tensors]
    updates: Mapping[str, Mapping[str, Tensors]]
    examples: Mapping[str, int]


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
        heard[site] = update
        self._answered[site] = examples

    def learn(self, states: Mapping[str, Tensors]) -> dict[str, Tensor] | None:
        """End the round; return the group's next state, or None, with a note, if it does not change.

        What it learns is of no use where a value is not finite or above ``MAX_MAGNITUDE``: sites
        would compute with it. The state stays as it was then.

        Parameters
        ----------
        states : mapping of str to Tensors
            By group that it `reads`, the state after the round.
        """
        assert self._facts is not None
        heard = {group: dict(sorted(each.items())) for group, each in self._heard.items()}
        updates = {group: heard.get(group, {}) for group in self.needs_updates}
        lesson = Lesson(
            self._facts.number,
            self._facts.seed,
            states,
            updates,
            dict(sorted(self._answered.items())),
        )
        before = self.state_dict()
        try:
            with torch.random.fork_rng(devices=[]):
                made = self._learn(lesson)
            if made is None:
                return None
            self._check_alike(made)
            if problem := _problem({**made, **self.state_dict()}):
                self.load_state_dict(before)
                self.note = f"what the server learned is left out: {problem}"
                return None
            return copied(made)
        finally:
            self._reset()

    def _check_alike(self, made: Tensors) -> None:
        specs = {name: TensorSpec.of(tensor) for name, tensor in made.items()}
        if specs != {name: TensorSpec.of(tensor) for name, tensor in self._current.items()}:
            raise ValueError(f"{type(self).__name__} made other tensors than the group has")

    def _reset(self) -> None:
        super()._reset()
        self._heard = {}

    @abstractmethod
    def _learn(self, lesson: Lesson) -> dict[str, Tensor] | None:
        """Return the next state from ``self._current``; torch's generator may be seeded freely."""

    def _fold(self, site: str, update: Tensors, examples: int) -> None:
        raise TypeError(f"no site sends what {type(self).__name__} makes")

    def _combine(self) -> dict[str, Tensor] | None:
        raise TypeError(f"{type(self).__name__} learns from other groups: call learn")


def _problem(tensors: Tensors) -> str:
    """Return which tensor is of no use, or ""."""
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            return f"{name} is not finite"
        if tensor.is_floating_point() and float(tensor.abs().max()) > MAX_MAGNITUDE:
            return f"{name} has a value above {MAX_MAGNITUDE:g}"
    return ""
