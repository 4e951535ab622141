"""The base of all aggregators: they turn the updates of a group's sites into its next state."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedstrata.protocol.tensors import uninitialized
from fedstrata.support.errors import UserError
from strategies.config import UNBOUNDED, TeacherConfig

Tensors = Mapping[str, Tensor]
CLASS_MEANS, LAST_LAYERS = "class means", "last layers"


@dataclass(frozen=True)
class Options:
    """The hyper-parameters of an aggregator, here none; their values are in conf/aggregator/."""

    def check(self, where: str) -> None:
        """Raise UserError for a value out of its range; ``where`` is its place, for the text."""


@dataclass(frozen=True)
class RoundFacts:
    """What an aggregator that learns may know of a round, beside the updates.

    Parameters
    ----------
    number : int
        The round; 0 for what happens before round 1.
    seed : int
        The run's.
    examples : int
        Training examples of all sites that share the scope, asked this time or not.
    others : mapping of str to Tensors
        The states of the groups that it reads, for the same task, as the sites received them; not
        to be changed.
    bounds : TeacherConfig
        What its learning may take and give.
    threads : int or None
        CPU threads for it: the last digits depend on them. None: as many as torch has.
    """

    number: int
    seed: int
    examples: int
    others: Mapping[str, Tensors]
    bounds: TeacherConfig = UNBOUNDED
    threads: int | None = None


class Aggregator(ABC):
    """One rule of aggregation, for one group and scope over all rounds of a run.

    A round is ``begin``, any number of ``add`` in any order, ``finish``. The order of the ``add``
    does not change a bit of the result. Values must be finite and at most ``MAX_MAGNITUDE`` in
    magnitude; the caller checks that. No argument is changed, and no result shares memory with one.

    Attributes
    ----------
    options_type : type of Options
        The dataclass of its hyper-parameters.
    takes_sums : bool
        Whether a sum over several sites can replace the update of each site.
    robust : bool
        Whether one site's update, whatever is in it, moves the result no further than others do.
    learns : bool
        Whether `inform` is to be called before each round.
    reads : tuple of str
        Other groups, whose states are among the facts of a round.
    limits : str
        What of one site ``strategy.teacher.influence`` limits: `CLASS_MEANS`, `LAST_LAYERS`, or "".
    note : str or None
        A remark on the last ``finish`` for the log, such as why the state did not change.
    """

    options_type: ClassVar[type[Options]] = Options
    takes_sums: ClassVar[bool] = False
    robust: ClassVar[bool] = False
    learns: ClassVar[bool] = False
    reads: ClassVar[tuple[str, ...]] = ()
    limits: ClassVar[str] = ""

    def __init__(self, options: Options) -> None:
        del options  # a rule that has some keeps them
        self.note: str | None = None
        self._current: Tensors = {}
        self._expected: Mapping[str, int] = {}
        self._answered: dict[str, int] = {}

    def inform(self, facts: RoundFacts) -> None:
        """Take what is known of the next round; it is called before ``begin`` if it ``learns``."""
        del facts

    def begin(self, current: Tensors, expected: Mapping[str, int]) -> None:
        """Start a round; an unfinished one is dropped.

        Parameters
        ----------
        current : Tensors
            The state of the group that the sites received, floating point, by tensor name; not to
            be changed before ``finish``.
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
        """Add the update of one site; ``update`` must not be changed before ``finish``.

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
            For an unknown or repeated site, no examples, another name or shape. After any of these
            errors the round is as before the call.
        """
        self._check_site(site, examples)
        _check_alike(update, self._current)
        self._fold(site, update, examples)
        self._answered[site] = examples

    def add_sum(self, sites: Mapping[str, int], sums: Tensors) -> None:
        """Add the sum of several sites' updates, as `FixedPointSum` sums them.

        Parameters
        ----------
        sites : Mapping of str to int
            The sites in the sum, with the examples that each trained on.
        sums : Tensors
            int64, the names and shapes of the current state. Their shift is that of `shift_of` for
            the examples expected of all sites asked.

        Raises
        ------
        TypeError
            For another dtype, and if the rule needs each site's own update (``takes_sums``).
        ValueError
            As `add`. After any of these errors the round is as before the call. The caller checks
            that no sum is above `largest_sum`.
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

    def judged(self, after: Tensors) -> Tensors:
        """Return of what ``strategy.teacher.norm`` bounds the norm, where it ``learns``."""
        return after

    def finish(self) -> dict[str, Tensor] | None:
        """End the round; return the group's next state, or None if it does not change."""
        try:
            return self._combine() if self._answered else None
        finally:
            self._reset()

    def state_dict(self) -> dict[str, Tensor]:
        """Return a copy of what a resumed run needs, as tensors by stable names."""
        return {}

    def load_state_dict(self, state: Tensors) -> None:
        """Load what ``state_dict`` returned; ValueError if it is of another rule."""
        if state:
            raise ValueError(f"{type(self).__name__} keeps no state, got {sorted(state)}")

    def _reset(self) -> None:
        """Forget the round."""
        self._current, self._expected, self._answered = {}, {}, {}

    @abstractmethod
    def _fold(self, site: str, update: Tensors, examples: int) -> None:
        """Add one checked update; change nothing if it raises."""

    def _fold_sum(self, sites: Mapping[str, int], sums: Tensors) -> None:
        """Add checked sums; change nothing if it raises. Only called if ``takes_sums``."""
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


def unusable(tensors: Tensors, norm: float) -> str:
    """Return why sites should not compute with ``tensors``, or ""; they have at most ``norm``."""
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            return f"{name} is not finite"
    squares = [torch.linalg.vector_norm(t, dtype=torch.float64) ** 2 for t in tensors.values()]
    found = float(torch.stack(squares).sum().sqrt()) if squares else 0.0
    if found > norm:
        return f"it has the norm {found:.4g}, at most {norm:g} is taken (strategy.teacher.norm)"
    return ""
