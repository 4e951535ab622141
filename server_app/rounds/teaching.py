"""The groups that go down only, in one round: what their teachers hear, and what they make."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from fedstrata.support.errors import UserError
from models.groups import Partition, Scope
from server_app.rounds.contribution import Contribution
from strategies.aggregators import Aggregator, Tensors
from strategies.aggregators.base import CLASS_MEANS
from strategies.aggregators.class_points import FEWEST
from strategies.aggregators.teacher import Teacher
from strategies.config import TeacherConfig


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


def teaching_lines(
    aggregators: Mapping[str, Aggregator],
    states: Mapping[str, Tensors],
    keys_of: Mapping[str, Mapping[str, str]],
    bounds: TeacherConfig,
    *,
    cohorts: bool,
) -> Iterator[str]:
    """Yield what the log says of the bounds on what the server learns, for each group where it does.

    Parameters
    ----------
    aggregators, states : mapping
        By scope key.
    keys_of : mapping of str to mapping
        Of each site, the scope key of each group of its task.
    bounds : TeacherConfig
        What learning may take and give.
    cohorts : bool
        Whether nodes send sums over several sites.

    Raises
    ------
    UserError
        Where the updates of all these sites would take more memory than they may.
    """
    sharing = Counter(key for keys in keys_of.values() for key in keys.values())
    for key, aggregator in sorted(aggregators.items()):
        if not aggregator.learns or not sharing[key]:
            continue
        parts = [f"it has at most the norm {bounds.norm:g}"]
        kept: list[Tensors] = []  # of each site
        if isinstance(aggregator, Teacher):
            parts.append(f"takes at most {bounds.seconds:g} s a round")
            mine = next(keys for keys in keys_of.values() if key in keys.values())
            kept = [states[mine[group]] for group in aggregator.needs_updates]
        elif aggregator.limits and not cohorts:
            kept = [states[key]]
        _check_memory(key, kept, states[key], sharing[key], bounds)
        if aggregator.limits:
            parts.append(_limit_words(aggregator.limits, sharing[key], bounds, cohorts=cohorts))
        yield f"strategy.teacher: {key} is made by the server; {', '.join(parts)}"


def _check_memory(
    key: str, kept: Collection[Tensors], made: Tensors, sites: int, bounds: TeacherConfig
) -> None:
    """Raise UserError where what is kept of a round, and what is made, takes too much memory."""
    of_site = sum(tensor.nbytes for tensors in kept for tensor in tensors.values())
    size = (of_site * sites + sum(tensor.nbytes for tensor in made.values())) / 1e6
    if size > bounds.memory_mb:
        raise UserError(
            f"strategy.teacher.memory_mb={bounds.memory_mb:g}: the server makes {key} of the updates of "
            f"{sites} sites, which takes {size:.4g} MB: write strategy.teacher.memory_mb={size + 1:.0f}"
        )


def _limit_words(what: str, sites: int, bounds: TeacherConfig, *, cohorts: bool) -> str:
    """Return how far one site can decide over what is made of ``what``, the aggregator's `limits`."""
    if bounds.influence == "none":
        return f"one site's {what} count as they are"
    if cohorts:
        return f"one site's {what} are not limited: a node sends the sum over its sites"
    limit = f"one site's {what} are cut to {bounds.clip:g} times the median norm"
    if bounds.influence == "median" and what == CLASS_MEANS:
        limit = "the class means are the median of the sites"
    return limit if sites >= FEWEST else f"{limit}, not with fewer than {FEWEST} sites as here"
