"""The groups that go down only, in one round: what their teachers hear, and what they make."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from torch import Tensor

from models.groups import Partition, Scope
from server_app.rounds.contribution import Contribution
from strategies.aggregators import Aggregator
from strategies.aggregators.teacher import Teacher


@dataclass(frozen=True)
class Taught:
    """A group that goes down only, in one round.

    Parameters
    ----------
    teacher : Teacher
        Makes it.
    keys : mapping of str to str
        The scope key of each group of its task.
    sites : collection of str
        The sites asked that share it.
    """

    teacher: Teacher
    keys: Mapping[str, str]
    sites: Collection[str]

    def hear(self, key: str, contribution: Contribution) -> None:
        """Give the teacher what a site sent in the scope ``key``, if it needs that."""
        if (
            len(contribution.sites) > 1
        ):  # a sum; a teacher that needs single updates is refused then
            return
        ((site, examples),) = contribution.sites.items()
        if site not in self.sites:
            return
        for group in self.teacher.needs_updates:
            if self.keys.get(group) == key:
                self.teacher.hear(site, group, contribution.tensors, examples)

    def learn(
        self, states: Mapping[str, Mapping[str, Tensor]], changed: Collection[str]
    ) -> dict[str, Tensor] | None:
        """Return the group's next state; None if nothing that it is made of has changed.

        Parameters
        ----------
        states : mapping
            What the server has after the round, by scope key.
        changed : collection of str
            The scope keys whose state is of this round.
        """
        groups = {*self.teacher.reads, *self.teacher.needs_updates}
        if not any(self.keys.get(group) in changed for group in groups):
            self.teacher.note = None
            return None
        there = [group for group in self.teacher.reads if group in self.keys]
        return self.teacher.learn({group: states[self.keys[group]] for group in there})


def check_teacher(group: str, aggregator: Aggregator, partition: Partition) -> None:
    """Raise TypeError where a method's group that goes down only cannot be made as it says."""
    if not isinstance(aggregator, Teacher):
        raise TypeError(f"group {group!r} goes down only and needs a Teacher")
    for other in {*aggregator.reads, *aggregator.needs_updates}:
        if other in partition.groups and not partition.names(other):
            continue  # nothing of it is exchanged in this run
        if other not in partition.leaving_groups():
            raise TypeError(f"group {group!r} is made of {other!r}, which no site sends")
        if (partition.group(group).scope, partition.group(other).scope) == (
            Scope.ALL_SITES,
            Scope.SAME_TASK,
        ):
            raise TypeError(f"group {group!r} is for all sites, and {other!r} of one task")
