"""What every aggregator is: it folds the updates of a group's sites into the next state."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedstrata.protocol.tensors import uninitialized
from fedstrata.support.errors import UserError

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Options:
    """The hyper-parameters of an aggregator, here none; conf/aggregator/ has their values."""

    def check(self, where: str) -> None:
        """Raise UserError for a value out of its range; ``where`` is its place, for the text."""


class Aggregator(ABC):
    """One rule of aggregation, at work for one group and scope over all rounds of a run.

    A round is ``begin``, any number of ``add`` in any order, ``finish``. What ``finish`` returns
    has the same bits whatever the order of the ``add``. Values must be finite and at most
    ``MAX_MAGNITUDE`` in magnitude: whoever checks the replies sees to that, nobody looks here.
    Nothing that is passed in is changed, and nothing returned shares memory with it.

    Attributes
    ----------
    options_type : type of Options
        The dataclass of its hyper-parameters.
    takes_sums : bool
        True where sums over several sites will do in place of each site's own update.
    note : str or None
        What is worth knowing about the last ``finish``, such as why the state was kept.
    """

    options_type: ClassVar[type[Options]] = Options
    takes_sums: ClassVar[bool] = False

    def __init__(self, options: Options) -> None:
        del options  # a rule that has some keeps them
        self.note: str | None = None
        self._current: Tensors = {}
        self._expected: Mapping[str, int] = {}
        self._answered: dict[str, int] = {}

    def begin(self, current: Tensors, expected: Mapping[str, int]) -> None:
        """Start a round, dropping what an unfinished one has left.

        Parameters
        ----------
        current : Tensors
            The group's state that the sites were sent, floating point, by tensor name; not to be
            changed before ``finish``.
        expected : Mapping of str to int
            The number of training examples of each site asked this round.

        Raises
        ------
        TypeError
            For a tensor that is not floating point: counters cannot be averaged.
        """
        for name, tensor in current.items():
            if not tensor.is_floating_point():
                raise TypeError(f"{name}: only floating point aggregates, not {tensor.dtype}")
        self._reset()
        self.note = None
        self._current, self._expected = current, dict(expected)

    def add(self, site: str, update: Tensors, examples: int) -> None:
        """Take the update of one site; ``update`` must not be changed before ``finish``.

        Parameters
        ----------
        site : str
            A site of ``expected`` that has not answered yet.
        update : Tensors
            Its tensors: the names, shapes and dtypes of the current state.
        examples : int
            The examples it trained on, at least one.

        Raises
        ------
        TypeError
            For a tensor of another dtype.
        ValueError
            For an unknown or repeated site, no examples, another name or shape. The round is as it
            was before the call, after each of these errors.
        """
        self._check_site(site, examples)
        _check_alike(update, self._current)
        self._fold(site, update, examples)
        self._answered[site] = examples

    def add_sum(self, sites: Mapping[str, int], sums: Tensors) -> None:
        """Take what several sites' updates add up to, as `FixedPointSum` sums them.

        Parameters
        ----------
        sites : Mapping of str to int
            The sites that are in the sum, with the examples that each trained on.
        sums : Tensors
            int64, the names and shapes of the current state; to the shift that `shift_of` gives
            for the examples expected of all sites asked.

        Raises
        ------
        TypeError
            For another dtype, and where the rule needs each site's own update (``takes_sums``).
        ValueError
            As `add`. The round is as it was before the call, after each of these errors. That no
            sum is above `largest_sum`, whoever checks the replies sees to.
        """
        if not self.takes_sums:
            raise TypeError(f"{type(self).__name__} needs each site's own update")
        for site, examples in sites.items():
            self._check_site(site, examples)
        _check_alike(sums, self._current, dtype=torch.int64)
        self._fold_sum(sites, sums)
        self._answered.update(sites)

    def _check_site(self, site: str, examples: int) -> None:
        if site not in self._expected:
            raise ValueError(f"site {site!r} was not asked this round")
        if site in self._answered:
            raise ValueError(f"site {site!r} has answered this round already")
        if examples < 1:
            raise ValueError(f"site {site!r} reports {examples} examples, at least 1 is needed")

    def finish(self) -> dict[str, Tensor] | None:
        """End the round; return the group's next state, or None where it stays as it was."""
        try:
            return self._combine() if self._answered else None
        finally:
            self._reset()

    def state_dict(self) -> dict[str, Tensor]:
        """Return a copy of what must outlive a restart, as tensors by stable names."""
        return {}

    def load_state_dict(self, state: Tensors) -> None:
        """Take up what ``state_dict`` returned; ValueError where it is of another rule."""
        if state:
            raise ValueError(f"{type(self).__name__} keeps no state, got {sorted(state)}")

    def _reset(self) -> None:
        """Forget the round."""
        self._current, self._expected, self._answered = {}, {}, {}

    @abstractmethod
    def _fold(self, site: str, update: Tensors, examples: int) -> None:
        """Take one checked update; change nothing where it raises."""

    def _fold_sum(self, sites: Mapping[str, int], sums: Tensors) -> None:
        """Take checked sums; change nothing where it raises. Only where ``takes_sums``."""
        raise NotImplementedError

    @abstractmethod
    def _combine(self) -> dict[str, Tensor] | None:
        """Return the next state from at least one update."""


def require(holds: bool, where: str, rule: str, value: float) -> None:
    """Raise UserError unless ``holds``: ``where`` and ``rule`` say what the value must be."""
    if not holds:
        raise UserError(f"{where} must be {rule}, got {value}")


def copied(tensors: Tensors) -> dict[str, Tensor]:
    """Return contiguous copies of ``tensors``."""
    return {
        name: uninitialized(tensor.shape, tensor.dtype).copy_(tensor.detach())
        for name, tensor in tensors.items()
    }


def _check_alike(update: Tensors, current: Tensors, dtype: torch.dtype | None = None) -> None:
    if update.keys() != current.keys():
        odd = sorted(update.keys() ^ current.keys())
        raise ValueError(f"the update and the state differ in the tensors {odd}")
    for name, tensor in update.items():
        wanted = dtype or current[name].dtype
        if tensor.dtype != wanted:
            raise TypeError(f"{name}: {tensor.dtype}, needed is {wanted}")
        if tensor.shape != current[name].shape:
            want = tuple(current[name].shape)
            raise ValueError(f"{name}: shape {tuple(tensor.shape)}, the state has {want}")
