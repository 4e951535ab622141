"""What the server has learned: tensors and an aggregator for each layer group and scope."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from fedstrata.protocol.codings import Codings
from fedstrata.protocol.kinds import group_of
from fedstrata.protocol.offered_models import task_of
from fedstrata.support.errors import UserError
from models.groups import Partition, exchanged_by_scope, scope_keys
from server_app.rounds.contribution import Contribution, Reference
from server_app.rounds.downlink import Downlink, Published
from server_app.rounds.teaching import Taught, check_teacher
from server_app.sites.members import Member
from strategies.aggregators import Aggregator, RoundFacts, make_aggregator
from strategies.aggregators.base import unusable
from strategies.aggregators.teacher import Teacher
from strategies.config import UNBOUNDED, TeacherConfig
from strategies.method import Method


@dataclass(frozen=True)
class GroupCheckpoint:
    """What a checkpoint has of one group and scope: tensors by name, empty where there are none.

    Parameters
    ----------
    state : dict
        The averaged tensors.
    optimizer : dict
        The aggregator's own tensors.
    published : dict
        The state that sites know, where the group travels to them as differences.
    """

    state: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    published: dict[str, Tensor]


@dataclass
class ServerState:
    """What the server has learned: one state and one aggregator per group and scope.

    Parameters
    ----------
    method : Method
        May bring aggregators of its own.
    configured : mapping
        The configured aggregator of each group, as options.
    sums : bool
        Whether nodes may answer with the sums over several sites.
    codings : Codings
        How each group travels.
    seed : int
        The run's, for aggregators that learn.
    teaching : TeacherConfig
        What their learning may take and give.
    threads : int or None
        CPU threads for it; None: as many as torch has.
    partitions : dict
        The partition of each model, by its variant: by task, or ``task/model`` where sites of a task
        have different networks.
    states : dict
        Scope key (``common``, ``task/gender``) to tensors by name.
    aggregators : dict
        Scope key to aggregator.
    checkpoints : dict
        Scope key to what a checkpoint has of tasks whose sites are not back yet.
    downlink : Downlink
        What sites know of the groups that travel to them as differences.
    """

    method: Method
    configured: Mapping[str, Any]
    sums: bool = False
    codings: Codings = field(default_factory=lambda: Codings({}, {}))
    seed: int = 0
    teaching: TeacherConfig = UNBOUNDED
    threads: int | None = None
    partitions: dict[str, Partition] = field(default_factory=dict)
    states: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    aggregators: dict[str, Aggregator] = field(default_factory=dict)
    checkpoints: dict[str, GroupCheckpoint] = field(default_factory=dict)
    downlink: Downlink = field(init=False)
    _taught: dict[str, Taught] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        self.downlink = Downlink(self.codings)

    # -- tasks and their scopes ------------------------------------------------------------------

    def add_task(self, variant: str, partition: Partition, start: Mapping[str, Tensor]) -> None:
        """Add a task's model: its partition, and the tensors that its groups start from.

        Raises
        ------
        UserError
            Where a group has no aggregator, or one that needs what cohorts do not send.
        """
        self.partitions[variant] = partition
        for key, names in exchanged_by_scope(partition, task_of(variant)).items():
            if key not in self.states:
                self.states[key] = {name: start[name] for name in names}
                self.downlink.begin(group_of(key), key, self.states[key])
            if key not in self.aggregators:
                self.aggregators[key] = self.aggregator(group_of(key))
                if partition.group(group_of(key)).down_only:
                    check_teacher(group_of(key), self.aggregators[key], partition)

    def keys(self) -> list[str]:
        """Return every scope that has a state, also where none of its sites is there."""
        return sorted({*self.states, *self.checkpoints})

    def scope_keys(self, variant: str) -> dict[str, str]:
        """Return the scope key of each exchanged group, for sites of a variant."""
        return scope_keys(self.partitions[variant], task_of(variant))

    def leaving_keys(self, variant: str) -> dict[str, str]:
        """Return the scope key of each group that sites of a variant send."""
        leaving = self.partitions[variant].leaving_groups()
        return {group: key for group, key in self.scope_keys(variant).items() if group in leaving}

    def sent_groups(self, variant: str) -> tuple[str, ...]:
        """Return the groups that sites of a variant send after each round."""
        return self.method.sent_groups(self.partitions[variant])

    def references(self, variant: str) -> dict[str, Reference]:
        """Return what sites of a variant train from in this round, and how they answer, by group."""
        return {
            group: Reference(
                self.codings.from_site(group),
                self.downlink.received(key, self.states[key]),
                self.states[key],
            )
            for group, key in self.scope_keys(variant).items()
        }

    def size(self, variant: str) -> int:
        """Return the bytes of the exchanged tensors of a variant."""
        states = [self.states[key] for key in self.scope_keys(variant).values()]
        return sum(t.numel() * t.element_size() for state in states for t in state.values())

    def aggregator(self, group: str) -> Aggregator:
        """Return a new aggregator for ``group``; UserError where there is none, or it cannot be."""

        def configured() -> Aggregator:
            if group not in self.configured:
                raise UserError(
                    f"strategy.aggregators has no entry for group {group!r}: choose one with "
                    f"'+aggregator@strategy.aggregators.{group}=fedavg'"
                )
            options = dict(self.configured[group])
            where = f"strategy.aggregators.{group}"
            return make_aggregator(str(options.pop("name", "")), options, where)

        chosen = self.method.aggregator(group, configured)
        if self.sums and isinstance(chosen, Teacher) and not chosen.takes_sums:
            mean = "method.each_site=false, or " if hasattr(self.method, "each_site") else ""
            raise UserError(
                f"method={self.method.name}: the server makes group {group!r} of each site's own "
                "update, and with cohort.sites above 1 a node sends the sum over its sites: write "
                f"{mean}cohort.sites=1, with a SuperNode for each site"
            )
        if self.sums and not chosen.takes_sums:
            raise UserError(
                f"strategy.aggregators.{group}: {type(chosen).__name__} needs each site's own "
                "update, and with cohort.sites above 1 a node sends the sum over its sites: choose "
                f"'aggregator@strategy.aggregators.{group}=fedavg' (or fedavgm, fedadam, fedyogi), "
                "or cohort.sites=1 with a SuperNode for each site"
            )
        return chosen

    # -- a round ---------------------------------------------------------------------------------

    def begin_round(
        self,
        examples: Mapping[str, int],
        variants: Mapping[str, str],
        number: int = 0,
        everyone: Callable[[], Mapping[str, int]] = dict,
        groups: Sequence[str] | None = None,
    ) -> dict[str, int]:
        """Open the aggregators of every scope that is asked; return the examples expected of each.

        Parameters
        ----------
        examples, variants : mapping of str to int, str
            The training examples and the variant of each site that is asked.
        number : int
            The round.
        everyone : callable
            Returns by scope key the examples of all sites; asked only where an aggregator learns.
        groups : sequence of str, optional
            Those that are asked for; those of every round when omitted.
        """
        keys = {each: self.scope_keys(each) for each in set(variants.values())}
        asked = {each: self.sent_groups(each) if groups is None else groups for each in keys}
        expected: dict[str, dict[str, int]] = {}
        beside: dict[str, Mapping[str, str]] = {}  # the scope keys of the same task
        for site, variant in variants.items():
            for group, key in keys[variant].items():
                if group in asked[variant]:
                    expected.setdefault(key, {})[site] = examples[site]
                    beside.setdefault(key, keys[variant])
        for key, sites in expected.items():
            aggregator = self.aggregators[key]
            if aggregator.learns:
                others = {g: self.states[beside[key][g]] for g in aggregator.reads}
                aggregator.inform(self._facts(number, everyone()[key], others))
            aggregator.begin(self.states[key], sites)
        self._taught = (
            {} if groups is not None else self._begin_teaching(variants, number, everyone)
        )
        return {key: sum(sites.values()) for key, sites in expected.items()}

    def _facts(
        self, number: int, examples: int, others: Mapping[str, Mapping[str, Tensor]]
    ) -> RoundFacts:
        return RoundFacts(number, self.seed, examples, others, self.teaching, self.threads)

    def _begin_teaching(
        self, variants: Mapping[str, str], number: int, everyone: Callable[[], Mapping[str, int]]
    ) -> dict[str, Taught]:
        """Open the teachers of the groups that go down only, for sites of these variants."""
        taught: dict[str, Taught] = {}
        for variant in sorted(set(variants.values())):
            keys, leaving = self.scope_keys(variant), self.leaving_keys(variant)
            for key in set(keys.values()) - set(leaving.values()) - taught.keys():
                teacher = self.aggregators[key]
                assert isinstance(teacher, Teacher)
                teacher.inform(self._facts(number, everyone()[key], {}))
                teacher.begin(self.states[key], {})
                sharing = [s for s, v in variants.items() if key in self.scope_keys(v).values()]
                taught[key] = Taught(teacher, keys, frozenset(sharing))
        return taught

    def add(self, contributions: Mapping[str, Contribution]) -> None:
        """Add what one answer contributes, by scope key."""
        for key, contribution in contributions.items():
            contribution.add_to(self.aggregators[key])
            for taught in self._taught.values():
                taught.hear(key, contribution)

    def finish_round(self, answers: Mapping[str, int]) -> tuple[dict[str, str], dict[str, str]]:
        """Close the aggregators of a round, then make what goes down only.

        A scope without an answer keeps its state.

        Parameters
        ----------
        answers : mapping of str to int
            The number of answers of each scope that was asked.

        Returns
        -------
        tuple of two dict
            Why scopes kept their state, and what the aggregators of the others note, by scope key.
        """
        kept: dict[str, str] = {}
        notes: dict[str, str] = {}
        for key, count in answers.items():
            aggregator = self.aggregators[key]
            after = aggregator.finish() if count else None
            why = (aggregator.note if count else None) or "no update"
            if after is not None and aggregator.learns:
                why = unusable(aggregator.judged(after), self.teaching.norm)
                after = None if why else after
            if after is None:
                kept[key] = why
                continue
            self.states[key] = after
            if aggregator.note:
                notes[key] = aggregator.note
        changed = answers.keys() - kept.keys()
        for key, taught in sorted(self._taught.items()):
            after = taught.learn(self.states, changed)
            if after is None:
                kept[key] = taught.teacher.note or "no update"
                continue
            self.states[key] = after
            if taught.teacher.note:
                notes[key] = taught.teacher.note
        self._taught = {}
        return kept, notes

    # -- checkpoints -----------------------------------------------------------------------------

    def load(self, key: str) -> None:
        """Continue from what a checkpoint has of ``key``, if any: one of its sites is there now."""
        checkpoint = self.checkpoints.pop(key, None)
        if checkpoint is None:
            return
        self.states[key] = {name: checkpoint.state[name] for name in self.states[key]}
        self.aggregators[key].load_state_dict(checkpoint.optimizer)
        if self.downlink.remembers(group_of(key)):
            tensors = {name: checkpoint.published[name] for name in self.states[key]}
            self.downlink.published[key] = Published(tensors)

    def fits(self, key: str, state: Mapping[str, Tensor]) -> bool:
        """Return whether what a checkpoint has of ``key``, if any, has the tensors of ``state``."""
        checkpoint = self.checkpoints.get(key)
        if checkpoint is None:
            return True
        saved = {name: tensor.shape for name, tensor in checkpoint.state.items()}
        return saved == {name: tensor.shape for name, tensor in state.items()}

    def to_checkpoints(self) -> dict[str, GroupCheckpoint]:
        """Return what a checkpoint must have, by scope key, what was not loaded yet included."""
        published = self.downlink.published
        return self.checkpoints | {
            key: GroupCheckpoint(
                state,
                self.aggregators[key].state_dict(),
                published[key].tensors if key in published else {},
            )
            for key, state in self.states.items()
        }


def examples_by_scope(state: ServerState, members: Iterable[Member]) -> dict[str, int]:
    """Return by scope key the training examples of all members that share it."""
    found: Counter[str] = Counter()
    for member in members:
        for key in state.scope_keys(member.variant).values():
            found[key] += member.report.examples["train"]
    return dict(found)
