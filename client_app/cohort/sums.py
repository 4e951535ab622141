"""The middle level between sites and the server: many sites' updates become one sum per scope."""

from __future__ import annotations

from collections.abc import Mapping

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

    Memory: one int64 sum per scope, and the update being added.

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
        groups = {}
        keys = scope_keys(partition, task)
        for group in (group for group, key in keys.items() if key in self._expected):
            groups[group] = {name: tensors[name] for name in partition.exchanged_names(group)}
            try:
                check_values(groups[group], MAX_MAGNITUDE)
            except PayloadError as error:
                raise Refused(f"group {group}: {error}") from None
        for group, tensors_of_group in groups.items():
            self._add(keys[group], tensors_of_group, report.examples)

    def _add(self, key: str, update: Tensors, examples: int) -> None:
        if key not in self._sums:
            if key not in self._only:
                self._only[key] = (update, examples)
                return
            self._sums[key] = FixedPointSum(shift_of(self._expected[key]))
            self._sums[key].add(*self._only.pop(key))
        self._sums[key].add(update, examples)

    def payloads(self) -> dict[str, bytes]:
        """Return the payload of each scope that a site has added to."""
        single = {key: encode(update) for key, (update, _) in self._only.items()}
        return single | {key: encode(added.tensors) for key, added in self._sums.items()}
