"""Sending orders to sites, and their answers as they arrive."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flwr.app import Array, Message
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.superlink.grid.grpc_grid import GrpcGrid
from torch import Tensor

from fedstrata.protocol import kinds, orders
from fedstrata.protocol.chunks import Slicer
from fedstrata.protocol.limits import Refused
from fedstrata.protocol.orders import CodedGroup
from fedstrata.protocol.payload import encode
from server_app.audit import RunAudit
from server_app.inbox import MOST_BESIDES, Inbox, collect, reply_problem, send
from server_app.patience import Log
from server_app.progress import RunProgress
from server_app.rounds.admission import Admission
from server_app.rounds.recipients import Recipients, by_order, split_answer
from server_app.rounds.records import RoundRecord
from server_app.rounds.state import ServerState
from server_app.sites.members import Member
from server_app.sites.roster import Roster
from strategies.config import StrategyConfig

TTL_MARGIN = 60.0  # seconds that a message outlives its deadline in the SuperLink
MOST_TIMES = 2  # an answer may be so many times as large as the layers that the site was sent
# Flower's errors that say that the node, or its answer, cannot be reached. Others are the site's.
UNREACHABLE = (
    ErrorCode.NODE_UNAVAILABLE,
    ErrorCode.MESSAGE_UNAVAILABLE,
    ErrorCode.REPLY_MESSAGE_UNAVAILABLE,
)


@dataclass(frozen=True)
class Ask:
    """What is asked of sites.

    Parameters
    ----------
    kind : str
        The kind of order, as fedstrata/protocol/kinds.py names it.
    number : int
        The round.
    seconds : float
        Within which an answer must be there.
    layers : mapping of str to Array, optional
        What the order carries; when omitted, the layers of the site's exchanged groups.
    expected : mapping of str to int, optional
        For training: by scope key, the examples of all sites asked.
    taken : mapping of str to mapping, optional
        For training: by site and group, of which round the last update is that was aggregated.
    last : mapping of str to int, optional
        For training: by site, of which round the last update is that was aggregated whole.
    best, keep, state : int, str, int
        As `fedstrata.protocol.orders.Order` has them.
    states : mapping of str to mapping, optional
        By scope key, the layers to send whole instead of the last state.
    of : mapping of str to str, optional
        By site, whose model it is to measure.
    fresh : collection of str
        Sites that have no layers of their own, as `fedstrata.protocol.orders.Order` has it.
    measure : bool
        For training: whether sites measure the layers that they receive.
    durable : mapping of str to sequence of int
        For training: by site, the rounds of which it keeps its own layers, as
        `fedstrata.protocol.orders.Order` has them.
    """

    kind: str
    number: int
    seconds: float
    layers: Mapping[str, Array] | None = None
    expected: Mapping[str, int] | None = None
    taken: Mapping[str, Mapping[str, int]] | None = None
    last: Mapping[str, int] | None = None
    best: int = 0
    keep: str = ""
    state: int = 0
    states: Mapping[str, Mapping[str, Tensor]] | None = None
    of: Mapping[str, str] | None = None
    fresh: Collection[str] = ()
    measure: bool = True
    durable: Mapping[str, Sequence[int]] = field(default_factory=dict)


@dataclass
class Dispatch:
    """The way to the sites of a run.

    Parameters
    ----------
    grid : Grid
        Flower's way to the nodes.
    roster : Roster
        Who takes part.
    state : ServerState
        The layers to send.
    settings : StrategyConfig
        How often to look for answers; for those who ask, also how long.
    admission : Admission
        Takes in sites that join or come back while answers are awaited.
    log : callable
        Takes a line, from those who ask.
    audit : RunAudit
        Records what arrives.
    progress : RunProgress
        Notes who was asked, and who answered.
    """

    grid: Grid
    roster: Roster
    state: ServerState
    settings: StrategyConfig
    admission: Admission
    log: Log
    audit: RunAudit
    progress: RunProgress = field(default_factory=RunProgress)

    def ask_each(
        self, ask: Ask, members: Iterable[Member], record: RoundRecord
    ) -> Iterator[tuple[Member, Message]]:
        """Send an order to each member, and yield each one's own report as it arrives.

        A member that does not answer in time is noted in ``record`` as late; one that cannot, as
        absent or refused.
        """
        for recipients, reply in self.ask(ask, members, record):
            try:
                reports = split_answer(recipients, reply)
            except Refused as error:
                record.refused |= dict.fromkeys(recipients.sites, str(error))
                continue
            yield from reports

    def ask(
        self, ask: Ask, members: Iterable[Member], record: RoundRecord
    ) -> Iterator[tuple[Recipients, Message]]:
        """Do what `ask_each` does, and yield each answer whole, with all whom it is from."""
        deadline = time.monotonic() + ask.seconds  # sending counts: it takes long for large layers
        pending, largest = self._send(ask, by_order(members), record)
        self.progress.ask(ask.kind, ask.number, _sites(pending))
        waiting = {message_id: recipients.node_id for message_id, recipients in pending.items()}
        inbox = Inbox(self.grid, MOST_BESIDES + MOST_TIMES * largest)
        for message_id, reply in collect(
            inbox,
            waiting,
            deadline=deadline,
            poll=self.settings.poll,
            idle=lambda: self._gone(pending, record),
        ):
            recipients = pending.pop(message_id)
            self.audit.arrived(ask.kind, ask.number, recipients.sites, reply)
            if problem := reply_problem(reply):
                missed = record.absent if reply.error.code in UNREACHABLE else record.refused
                missed |= dict.fromkeys(recipients.sites, problem)
                self._note_unanswered(ask.kind, recipients)
                continue
            yield recipients, reply
        for recipients in pending.values():
            self._note_unanswered(ask.kind, recipients)
            why = f"no answer within {ask.seconds:g} s"
            self.audit.not_awaited(ask.kind, ask.number, recipients.sites, why)
            for site in recipients.sites:
                if site not in record.absent:
                    record.late[site] = why

    def _send(
        self, ask: Ask, everyone: Iterable[Recipients], record: RoundRecord
    ) -> tuple[dict[str, Recipients], int]:
        """Send the orders; return who got which message, and the bytes of the largest layers."""
        arrays: dict[str, Array] = {}
        pending: dict[str, Recipients] = {}
        largest, slicer = 0, Slicer()
        for recipients in everyone:
            layers, coded = ask.layers, dict[str, CodedGroup]()
            if layers is None:
                layers, coded = self._layers(recipients, ask, arrays)
                largest = max(largest, *map(self.state.size, recipients.variants))
            largest = max(largest, sum(len(array.data) for array in layers.values()))
            # One at a time: each message has its own copy of the layers until it is sent.
            order = self._order(ask, recipients, layers, coded)
            if isinstance(self.grid, GrpcGrid):
                slicer.slice(order)
            sent = send(self.grid, [order])
            if not sent:
                why = "its node is gone: the message could not be sent"
                record.absent |= dict.fromkeys(recipients.sites, why)
                continue
            pending[sent[0]] = recipients
            record.count_down(layers, coded)
        return pending, largest

    def _order(
        self,
        ask: Ask,
        recipients: Recipients,
        layers: Mapping[str, Array],
        coded: Mapping[str, CodedGroup],
    ) -> Message:
        """Return the message. To a cohort it names who is asked; to a site, which updates counted."""
        cohort = recipients.in_cohort
        taken = (ask.taken or {}).get(recipients.sites[0])
        of = (ask.of or {}).get(recipients.sites[0], "")
        return orders.order(
            ask.kind,
            recipients.node_id,
            plan=self.roster.plan,
            round_number=ask.number,
            layers=layers,
            ttl=ask.seconds + TTL_MARGIN,
            members=recipients.sites if cohort else (),
            expected=ask.expected if cohort else None,
            coded=coded,
            taken=None if cohort else taken,
            best=ask.best,
            keep=ask.keep,
            state=ask.state,
            of=of,
            fresh=[name for name in ([of] if of else recipients.sites) if name in ask.fresh],
            last={s: ask.last[s] for s in recipients.sites if ask.last.get(s)}
            if ask.last
            else None,
            measure=ask.measure,
            # Of a cohort all have the same: its layers travel exactly, without error feedback.
            durable=ask.durable.get(recipients.sites[0], ()),
        )

    def _layers(
        self, recipients: Recipients, ask: Ask, arrays: dict[str, Array]
    ) -> tuple[dict[str, Array], dict[str, CodedGroup]]:
        """Return the payload of each group for a site, or of each scope for a cohort's sites.

        Equal ones are made once, in ``arrays``. A group that travels as differences has as many
        payloads as steps, and the second mapping says what they are; a cohort has no such groups.
        """
        layers: dict[str, Array] = {}
        coded: dict[str, CodedGroup] = {}
        for variant in recipients.variants:
            for group, key in self.state.scope_keys(variant).items():
                state = (ask.states or self.state.states)[key]
                if ask.states is None and self.state.downlink.remembers(group):
                    steps, coded[group] = self.state.downlink.payloads(
                        recipients.sites[0], group, key, ask.number, state
                    )
                    layers |= steps
                    continue
                if key not in arrays:
                    arrays[key] = kinds.payload_array(encode(state))
                layers[key if recipients.in_cohort else group] = arrays[key]
        return layers, coded

    def _note_unanswered(self, kind: str, recipients: Recipients) -> None:
        """Note that an order to train brought no answer: the sites may have trained all the same."""
        if kind == kinds.TRAIN:
            for site in recipients.sites:
                self.state.downlink.unanswered(site)

    def _gone(self, pending: Mapping[str, Recipients], record: RoundRecord) -> set[str]:
        """Return the messages whose sites cannot answer any more, and note why."""
        connected = self.roster.connected()
        self.admission.welcome(connected)
        self.progress.look(record, set(_sites(pending)))
        gone = set()
        for message_id, recipients in pending.items():
            for member in recipients.members:
                now = self.roster.everyone.get(member.site)
                if now is not None and now.node_id != member.node_id:
                    record.absent[member.site] = "was started again; what it was doing is lost"
                elif member.node_id not in connected:
                    record.absent[member.site] = "disconnected"
                else:
                    continue
                gone.add(message_id)
        return gone


def _sites(pending: Mapping[str, Recipients]) -> Iterator[str]:
    """Return the sites whose answers are awaited."""
    return (site for recipients in pending.values() for site in recipients.sites)


def last_whole(
    history: Sequence[Mapping[str, Any]], keys: Mapping[str, Collection[str]]
) -> dict[str, int]:
    """Return of which round the last update of each site is of which every scope was aggregated.

    ``keys`` has the scope keys of each site to look for. A site without such a round is left out.
    """
    found: dict[str, int] = {}
    for record in reversed(history):
        if len(found) == len(keys):
            break
        kept = record["kept"]
        for site in record["participants"]:
            if site in keys and site not in found and not any(key in kept for key in keys[site]):
                found[site] = int(record["round"])
    return found


def last_taken(
    history: Sequence[Mapping[str, Any]], site: str, keys: Mapping[str, str]
) -> dict[str, int]:
    """Return of which round a site's last update is that was aggregated, by group; 0 for none.

    Parameters
    ----------
    history : sequence of mapping
        The records of the rounds that are complete, in order.
    site : str
        The site.
    keys : mapping of str to str
        The scope key of each group in which coding loses something: the site adds that to its
        next update, and must know which of its updates counted.
    """
    return {
        group: next(
            (
                int(record["round"])
                for record in reversed(history)
                if site in record["participants"] and key not in record["kept"]
            ),
            0,
        )
        for group, key in keys.items()
    }
