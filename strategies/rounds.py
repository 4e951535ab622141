"""The round loop: ask, check, aggregate as it arrives, and go on with whoever is there."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flwr.app import Array, Message
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from torch import Tensor

from models.errors import UserError
from models.groups import Partition, Scope
from models.seeds import derive_seed
from strategies import wire
from strategies.aggregators import Aggregator, make
from strategies.checks import checked_update
from strategies.config import StrategyConfig
from strategies.method import Method
from strategies.payload import encode
from strategies.records import RoundRecord, task_metrics
from strategies.roster import Member, Reminder, Roster, collect, reply_problem, send
from strategies.wire import Refused

Log = Callable[[str], None]
TTL_MARGIN = 60.0  # seconds that a message outlives its round's deadline in the SuperLink


def scope_key(partition: Partition, group: str, task: str) -> str:
    """Return the name of the state that sites of ``task`` share in ``group``: ``task/gender``."""
    return f"{group}/{task}" if partition.group(group).scope is Scope.SAME_TASK else group


@dataclass
class Learnt:
    """What the server holds: one state and one aggregator per group and scope.

    Parameters
    ----------
    partitions : dict
        Task to the partition of its model.
    states : dict
        Scope key (``common``, ``task/gender``) to tensors by name.
    aggregators : dict
        Scope key to aggregator.
    """

    method: Method
    configured: Mapping[str, Any]
    partitions: dict[str, Partition] = field(default_factory=dict)
    states: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    aggregators: dict[str, Aggregator] = field(default_factory=dict)

    def add_task(self, task: str, partition: Partition, start: Mapping[str, Tensor]) -> None:
        """Take in a task: its partition, and the tensors its groups start from."""
        self.partitions[task] = partition
        for group in partition.exchanged_groups():
            key = scope_key(partition, group, task)
            if key not in self.states:
                names = partition.exchanged_names(group)
                self.states[key] = {name: start[name] for name in names}
            if key not in self.aggregators:
                self.aggregators[key] = self._aggregator(group)

    def keys_of(self, task: str) -> dict[str, str]:
        """Return the scope key of each exchanged group, for sites of ``task``."""
        partition = self.partitions[task]
        return {g: scope_key(partition, g, task) for g in partition.exchanged_groups()}

    def _aggregator(self, group: str) -> Aggregator:
        def configured() -> Aggregator:
            if group not in self.configured:
                raise UserError(
                    f"strategy.aggregators has no entry for group {group!r}: choose one with "
                    f"'+aggregator@strategy.aggregators.{group}=fedavg'"
                )
            options = dict(self.configured[group])
            where = f"strategy.aggregators.{group}"
            return make(str(options.pop("name", "")), options, where)

        return self.method.aggregator(group, configured)


@dataclass
class Rounds:
    """Plays rounds over a grid.

    Parameters
    ----------
    grid : Grid
        Flower's way to the nodes.
    roster : Roster
        Who takes part.
    learnt : Learnt
        The states; replaced group by group as rounds end.
    settings : StrategyConfig
        Fraction, deadline, minimum and so on.
    seed : int
        The run's seed; who is asked in a round follows from it and the round's number.
    admit : callable
        Takes in members that joined or came back while rounds are played.
    log : callable
        Takes one line.
    """

    grid: Grid
    roster: Roster
    learnt: Learnt
    settings: StrategyConfig
    seed: int
    admit: Callable[[list[Member]], None]
    log: Log

    def play(self, number: int) -> RoundRecord:
        """Play round ``number`` (from 1) and return what happened.

        A round in which nobody took part is played again, until ``strategy.give_up`` seconds have
        passed: the next one would start from the same state.

        Raises
        ------
        UserError
            Where too few sites are there for too long, or every site refused.
        """
        started = time.monotonic()
        remind, give_up = Reminder(self.log), math.inf
        for attempt in itertools.count():
            record = self._attempt(number, attempt)
            if record.participants:
                break
            give_up = min(give_up, time.monotonic() + self.settings.give_up)
            missing = {**record.refused, **record.late, **record.absent}
            told = "; ".join(f"{self.roster.described(s)}: {why}" for s, why in missing.items())
            text = f"round {number}: nobody took part ({told or 'nobody was asked'})"
            if time.monotonic() >= give_up:
                raise UserError(f"{text}; {self._gave_up(number)}")
            remind(f"{text}; it is played again")
            time.sleep(self.settings.poll)
        for stranger in self.roster.take_turned_away():
            record.turned_away[str(stranger.node_id)] = stranger.reason
        record.seconds = time.monotonic() - started
        return record

    def _attempt(self, number: int, attempt: int) -> RoundRecord:
        """Ask, check and aggregate once; another ``attempt`` asks another share of the sites."""
        connected = self._wait_for_enough(number)
        asked, record = self._sample(number, attempt, connected)
        counts = {member.site: member.report.examples["train"] for member in asked}
        arrived = self._begin(asked, counts)
        for member, reply in self.ask(wire.TRAIN, asked, number, record, self.settings.deadline):
            partition = self.learnt.partitions[member.task]
            try:
                update = checked_update(reply, member, number, partition, self.learnt.method)
            except Refused as error:
                record.refused[member.site] = str(error)
                continue
            for group, tensors in update.tensors.items():
                key = scope_key(partition, group, member.task)
                self.learnt.aggregators[key].add(member.site, tensors, update.report.examples)
                arrived[key] += 1
                record.bytes_up[group] = record.bytes_up.get(group, 0) + update.sizes[group]
            record.took_part(member, update.report)
        self._stop_if_all_refused(record)
        self._finish(arrived, record)
        self._note_the_others(record)
        record.tasks = task_metrics(record.sites)
        return record

    def _note_the_others(self, record: RoundRecord) -> None:
        """Note the sites that could not be asked at all: they never joined, or cannot take part."""
        for site, why in self.roster.unavailable(self.roster.connected()).items():
            if site not in self.roster.members:
                record.absent[site] = why

    def _stop_if_all_refused(self, record: RoundRecord) -> None:
        """Raise UserError where every site answered and no answer could be taken."""
        if record.refused and not (record.participants or record.late or record.absent):
            lines = [f"  {site}: {reason}" for site, reason in sorted(record.refused.items())]
            raise UserError(
                f"round {record.round}: no site could take part; what was learnt up to round "
                f"{record.round - 1} is kept, resume the run when this is mended:\n"
                + "\n".join(lines)
            )

    def ask(
        self,
        kind: str,
        members: Iterable[Member],
        number: int,
        record: RoundRecord,
        seconds: float,
        *,
        layers: Mapping[str, Array] | None = None,
    ) -> Iterator[tuple[Member, Message]]:
        """Send one order to each member, and yield the answers as they arrive.

        The order carries ``layers``; when omitted, those of the member's exchanged groups. Who
        does not answer in ``seconds`` is noted in ``record`` as late, who cannot as absent.
        """
        arrays: dict[str, Array] = {}
        pending: dict[str, Member] = {}
        deadline = time.monotonic() + seconds
        for member in members:
            sent_layers = self._layers(member.task, arrays) if layers is None else layers
            message = wire.order(
                kind,
                member.node_id,
                plan=self.roster.plan,
                round_number=number,
                layers=sent_layers,
                ttl=seconds + TTL_MARGIN,
            )
            sent = send(self.grid, [message])
            if not sent:
                record.absent[member.site] = "its node is gone: the message could not be sent"
                continue
            pending[sent[0]] = member
            for group, array in sent_layers.items():
                record.bytes_down[group] = record.bytes_down.get(group, 0) + len(array.data)
        arrays.clear()

        def idle() -> set[str]:
            return self._gone(pending, record)

        waiting = {message_id: member.node_id for message_id, member in pending.items()}
        for message_id, reply in collect(
            self.grid, waiting, deadline=deadline, poll=self.settings.poll, idle=idle
        ):
            member = pending.pop(message_id)
            if problem := reply_problem(reply):
                unreachable = reply.error.code in (
                    ErrorCode.NODE_UNAVAILABLE,
                    ErrorCode.MESSAGE_UNAVAILABLE,
                    ErrorCode.REPLY_MESSAGE_UNAVAILABLE,
                )
                (record.absent if unreachable else record.refused)[member.site] = problem
                continue
            yield member, reply
        for member in pending.values():
            if member.site not in record.absent:
                record.late[member.site] = f"no answer within {seconds:g} s"

    def _layers(self, task: str, arrays: dict[str, Array]) -> dict[str, Array]:
        """Return the payload of each group for a site of ``task``; equal ones are made once."""
        layers: dict[str, Array] = {}
        for group, key in self.learnt.keys_of(task).items():
            if key not in arrays:
                arrays[key] = wire.payload_array(encode(self.learnt.states[key]))
            layers[group] = arrays[key]
        return layers

    def _sample(
        self, number: int, attempt: int, connected: set[int]
    ) -> tuple[list[Member], RoundRecord]:
        """Choose each task's share of sites, by a seed of the round; note who is not connected."""
        record = RoundRecord(number)
        asked: list[Member] = []
        again = [attempt] if attempt else []
        for task, members in self.roster.by_task().items():
            size = max(1, round(self.settings.fraction * len(members)))
            seed = derive_seed(self.seed, "sample", task, number, *again)
            generator = np.random.default_rng(seed)
            chosen = sorted(generator.permutation(len(members))[:size])
            for member in (members[i] for i in chosen):
                if member.node_id in connected:
                    asked.append(member)
                else:
                    record.absent[member.site] = "not connected when the round began"
        return asked, record

    def _begin(self, asked: list[Member], counts: Mapping[str, int]) -> dict[str, int]:
        """Open the aggregators of every scope that is asked; return the replies counted so far."""
        expected: dict[str, dict[str, int]] = {}
        for member in asked:
            for key in self.learnt.keys_of(member.task).values():
                expected.setdefault(key, {})[member.site] = counts[member.site]
        for key, sites in expected.items():
            self.learnt.aggregators[key].begin(self.learnt.states[key], sites)
        return dict.fromkeys(expected, 0)

    def _finish(self, arrived: Mapping[str, int], record: RoundRecord) -> None:
        """Close the round's aggregators; a group below its minimum keeps its state."""
        for key, count in arrived.items():
            least = self.settings.minimum.get(key.split("/")[0], 1)
            if count < least:
                record.kept[key] = f"{count} updates, {least} needed"
                continue
            aggregator = self.learnt.aggregators[key]
            after = aggregator.finish()
            if after is None:
                record.kept[key] = aggregator.note or "no update"
            else:
                self.learnt.states[key] = after

    def _wait_for_enough(self, number: int) -> set[int]:
        """Return who is connected, once that is enough sites for a round.

        Raises
        ------
        UserError
            Where it is not enough within ``strategy.give_up``; names who is missing.
        """
        give_up = time.monotonic() + self.settings.give_up
        remind, waited = Reminder(self.log), False
        while True:
            connected = self.roster.connected()
            self._welcome(connected)
            there = sum(m.node_id in connected for m in self.roster.members.values())
            if there >= self.settings.min_sites:
                if waited:
                    self.log(f"round {number}: {there} sites are there, it goes on")
                return connected
            missing = self.roster.unavailable(connected)
            told = [f"{self.roster.described(site)}: {why}" for site, why in missing.items()]
            text = (
                f"round {number}: {there} of at least {self.settings.min_sites} sites are there, "
                f"missing: {'; '.join(told) or 'sites that never joined'}"
            )
            if time.monotonic() >= give_up:
                raise UserError(f"{text}; {self._gave_up(number)}")
            remind(text)
            waited = True
            time.sleep(self.settings.poll)

    def _gave_up(self, number: int) -> str:
        return (
            f"gave up after {self.settings.give_up:g} s (strategy.give_up); what was learnt up to "
            f"round {number - 1} is kept: give the same command with resume when they are back"
        )

    def _welcome(self, connected: set[int]) -> list[Member]:
        """Take in sites that joined or came back."""
        self.roster.forget_asked(connected)
        members, strangers = self.roster.greet()
        for stranger in strangers:
            self.log(str(stranger))
        if members:
            self.admit(members)
        return members

    def _gone(self, pending: Mapping[str, Member], record: RoundRecord) -> set[str]:
        """Return the messages whose sites cannot answer any more, and note why."""
        connected = self.roster.connected()
        self._welcome(connected)
        gone = set()
        for message_id, member in pending.items():
            now = self.roster.everyone.get(member.site)
            if now is not None and now.node_id != member.node_id:
                record.absent[member.site] = "was started again; what it was doing is lost"
            elif member.node_id not in connected:
                record.absent[member.site] = "disconnected"
            else:
                continue
            gone.add(message_id)
        return gone
