"""The middle level between sites and the server: many sites' updates become one sum per scope."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from client_app.cohort.updates import SiteUpdate, StackedUpdates
from fedstrata.protocol.answers import RoundReport
from fedstrata.protocol.limits import Refused
from fedstrata.protocol.payload import PayloadError, check_values, encode
from models.groups import Partition, scope_keys
from strategies.aggregators import MAX_MAGNITUDE, FixedPointSum, Tensors, shift_of
from strategies.method import Method


class CohortSums:
    """Adds up the updates of a cohort's sites, by scope, each weighted by its examples.

    The server adds these sums to those of other cohorts and to the updates of single sites. The
    mean has the bits that it would have with every site's own update: all use one fixed point,
    which depends on the examples expected of all sites asked. A sum of one site is sent as its
    update, for the mean of one update is that update.

    Memory: one int64 sum per scope, and the updates being added: one, or a stack.

    Parameters
    ----------
    expected : mapping of str to int
        By scope key, the examples of all sites asked, as the server's order says. Scopes that are
        not in it are not asked for, as before the rounds.
    method : Method
        Says whether partial work is taken.
    """

    def __init__(self, expected: Mapping[str, int], method: Method) -> None:
        self._expected, self._method = expected, method
        self._only: dict[str, tuple[Tensors, int]] = {}  # the first update, until there is a second
        self._sums: dict[str, FixedPointSum] = {}
        self._waiting: dict[str, _Waiting] = {}

    def add(self, task: str, report: RoundReport, partition: Partition, tensors: Tensors) -> None:
        """Add a site's update; ``tensors`` must not be changed afterwards.

        Parameters
        ----------
        task : str
            The site's task.
        report : RoundReport
            The site's report; its examples are the weight.
        partition : Partition
            Of the task's model.
        tensors : Tensors
            All that the site exchanges in the scopes asked for, by name.

        Raises
        ------
        Refused
            For the reasons for which the server would refuse the site's own answer. The sums are
            as before then.
        """
        if reason := self._method.reject_reason(report.steps, report.planned):
            raise Refused(reason)
        # All groups are checked before any is added: a refused site must be in no sum.
        keys = {g: k for g, k in scope_keys(partition, task).items() if k in self._expected}
        for group in keys:
            _check(group, partition.exchanged_names(group), tensors)
        for group, key in keys.items():
            self._add(key, partition.exchanged_names(group), tensors, report.examples)

    def _add(self, key: str, names: tuple[str, ...], tensors: Tensors, examples: int) -> None:
        if isinstance(tensors, SiteUpdate):
            waiting = self._waiting.get(key)
            if waiting and (waiting.stack is not tensors.stack or waiting.names != names):
                self._add_waiting(key)
            waiting = self._waiting.setdefault(key, _Waiting(tensors.stack, names))
            waiting.examples[tensors.place] = examples
            return
        self._add_one(key, {name: tensors[name] for name in names}, examples)

    def _add_waiting(self, key: str) -> None:
        """Add those sites of a stack that wait for it, as one."""
        waiting = self._waiting.pop(key)
        if len(waiting.examples) == 1:
            ((place, examples),) = waiting.examples.items()
            own = SiteUpdate(waiting.stack, place)
            self._add_one(key, {name: own[name] for name in waiting.names}, examples)
            return
        tensors = {name: waiting.stack.tensors[name] for name in waiting.names}
        self._sum(key).add_stacked(tensors, waiting.examples)

    def _add_one(self, key: str, update: Tensors, examples: int) -> None:
        if key not in self._sums and key not in self._only:
            self._only[key] = (update, examples)
        else:
            self._sum(key).add(update, examples)

    def _sum(self, key: str) -> FixedPointSum:
        """Return the sum of a scope, begun if there was none."""
        if key not in self._sums:
            self._sums[key] = FixedPointSum(shift_of(self._expected[key]))
            if key in self._only:
                self._sums[key].add(*self._only.pop(key))
        return self._sums[key]

    def payloads(self) -> dict[str, bytes]:
        """Return the payload of each scope that a site has added to."""
        for key in list(self._waiting):
            self._add_waiting(key)
        single = {key: encode(update) for key, (update, _) in self._only.items()}
        return single | {key: encode(added.tensors) for key, added in self._sums.items()}


@dataclass
class _Waiting:
    """Sites of one stack whose updates are not in a sum yet, and the examples of each."""

    stack: StackedUpdates
    names: tuple[str, ...]
    examples: dict[int, int] = field(default_factory=dict)


def _check(group: str, names: tuple[str, ...], tensors: Tensors) -> None:
    """Raise Refused for values that the server would not take."""
    if isinstance(tensors, SiteUpdate) and tensors.within(names, MAX_MAGNITUDE):
        return
    try:
        check_values({name: tensors[name] for name in names}, MAX_MAGNITUDE)
    except PayloadError as error:
        raise Refused(f"group {group}: {error}") from None
