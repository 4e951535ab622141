"""What the server has server_state: tensors and an aggregator for each layer group and scope."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from fedstrata.protocol.codings import Codings
from fedstrata.protocol.kinds import group_of
from fedstrata.support.errors import UserError
from models.groups import Partition, exchanged, keys_of
from server_app.rounds.contribution import Reference
from server_app.rounds.downlink import Downlink, Published
from strategies.aggregators import Aggregator, make
from strategies.method import Method


@dataclass(frozen=True)
class GroupCheckpoint:
    """What a checkpoint holds of a group and scope: all by name, empty where there is none.

    Parameters
    ----------
    state : dict
        What was server_state.
    optimizer : dict
        The aggregator's own tensors.
    published : dict
        What sites hold, where the group travels down as differences.
    """

    state: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    published: dict[str, Tensor]


@dataclass
class ServerState:
    """What the server holds: one state and one aggregator per group and scope.

    Parameters
    ----------
    partitions : dict
        Task to the partition of its model.
    states : dict
        Scope key (``common``, ``task/gender``) to tensors by name.
    aggregators : dict
        Scope key to aggregator.
    unclaimed : dict
        Scope key to what a checkpoint holds of tasks whose sites are not back yet.
    in_cohort : bool
        Whether nodes may answer with the sums over several sites.
    codings : Codings
        How each group travels.
    downlink : Downlink
        What sites hold of the groups that travel down as differences.
    """

    method: Method
    configured: Mapping[str, Any]
    in_cohort: bool = False
    codings: Codings = field(default_factory=lambda: Codings({}, {}))
    partitions: dict[str, Partition] = field(default_factory=dict)
    states: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    aggregators: dict[str, Aggregator] = field(default_factory=dict)
    unclaimed: dict[str, GroupCheckpoint] = field(default_factory=dict)
    downlink: Downlink = field(init=False)

    def __post_init__(self) -> None:
        self.downlink = Downlink(self.codings)

    def add_task(self, task: str, partition: Partition, start: Mapping[str, Tensor]) -> None:
        """Take in a task: its partition, and the tensors its groups start from.

        Raises
        ------
        UserError
            Where a group has no aggregator, or one that needs what cohorts do not send.
        """
        self.partitions[task] = partition
        for key, names in exchanged(partition, task).items():
            if key not in self.states:
                self.states[key] = {name: start[name] for name in names}
                self.downlink.begin(group_of(key), key, self.states[key])
            if key not in self.aggregators:
                self.aggregators[key] = self.aggregator(group_of(key))

    def keys(self) -> list[str]:
        """Return every scope of which there is a state, also where none of its sites is there."""
        return sorted({*self.states, *self.unclaimed})

    def claim(self, key: str) -> None:
        """Go on from what a checkpoint holds of ``key``, if it does: a site is there to learn it."""
        kept = self.unclaimed.pop(key, None)
        if kept is None:
            return
        self.states[key] = {name: kept.state[name] for name in self.states[key]}
        self.aggregators[key].load_state_dict(kept.optimizer)
        if self.downlink.remembers(group_of(key)):
            tensors = {name: kept.published[name] for name in self.states[key]}
            self.downlink.published[key] = Published(tensors)

    def keep(self) -> dict[str, GroupCheckpoint]:
        """Return what a checkpoint has to hold, by scope key; what nobody claimed is still in it."""
        published = self.downlink.published
        return self.unclaimed | {
            key: GroupCheckpoint(
                state,
                self.aggregators[key].state_dict(),
                published[key].tensors if key in published else {},
            )
            for key, state in self.states.items()
        }

    def sent(self, task: str) -> dict[str, Reference]:
        """Return what sites of ``task`` train from in this round, and how they answer, by group."""
        return {
            group: Reference(
                self.codings.from_site(group),
                self.downlink.received(key, self.states[key]),
                self.states[key],
            )
            for group, key in self.keys_of(task).items()
        }

    def keys_of(self, task: str) -> dict[str, str]:
        """Return the scope key of each exchanged group, for sites of ``task``."""
        return keys_of(self.partitions[task], task)

    def size(self, task: str) -> int:
        """Return the bytes of the exchanged tensors of ``task``."""
        states = [self.states[key] for key in self.keys_of(task).values()]
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
            return make(str(options.pop("name", "")), options, where)

        chosen = self.method.aggregator(group, configured)
        if self.in_cohort and not chosen.takes_sums:
            raise UserError(
                f"strategy.aggregators.{group}: {type(chosen).__name__} needs each site's own "
                "update, and with cohort.sites above 1 a node sends the sum over its sites: choose "
                f"'aggregator@strategy.aggregators.{group}=fedavg' (or fedavgm, fedadam, fedyogi), "
                "or cohort.sites=1 with a SuperNode for each site"
            )
        return chosen
