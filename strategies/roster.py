"""Who takes part: nodes that said who they are, known by the site's name from then on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from flwr.app import Message
from flwr.serverapp import Grid

from models.errors import UserError
from strategies import wire
from strategies.wire import Refused, SiteReport, read_site_report

REPLIES_AT_ONCE = 4  # answers fetched in one call: bounds what is in memory
QUERY_TTL = 3600.0


@dataclass(frozen=True)
class Member:
    """A site that takes part, and the node under which it can be reached now."""

    node_id: int
    report: SiteReport

    @property
    def site(self) -> str:
        """The site's name."""
        return self.report.site

    @property
    def task(self) -> str:
        """The site's task."""
        return self.report.task


@dataclass(frozen=True)
class Stranger:
    """A node that answered, but cannot take part, and why."""

    node_id: int
    site: str
    reason: str


@dataclass
class Roster:
    """The members by site name, the newcomers, and what is known of other nodes.

    ``members`` take part in the rounds; ``newcomers`` are reachable, and join when those are over.

    Parameters
    ----------
    grid : Grid
        Where the nodes are.
    plan : str
        The plan, as JSON, that every query carries.
    apart : frozenset of str
        Names of the sites that are newcomers.
    """

    grid: Grid
    plan: str
    apart: frozenset[str] = frozenset()
    members: dict[str, Member] = field(default_factory=dict)
    newcomers: dict[str, Member] = field(default_factory=dict)
    strangers: dict[int, Stranger] = field(default_factory=dict)
    _asked: dict[str, int] = field(default_factory=dict)

    def connected(self) -> set[int]:
        """Return the ids of the nodes that the SuperLink sees now."""
        return set(self.grid.get_node_ids())

    @property
    def everyone(self) -> dict[str, Member]:
        """Return members and newcomers by name."""
        return {**self.members, **self.newcomers}

    def place(self, member: Member) -> bool:
        """Put a site among the members or the newcomers; return whether it was there before."""
        side = self.newcomers if member.site in self.apart else self.members
        known = member.site in side
        side[member.site] = member
        return known

    def clear(self) -> None:
        """Forget who takes part."""
        self.members.clear()
        self.newcomers.clear()

    def greet(self) -> tuple[list[Member], list[Stranger]]:
        """Ask unknown nodes who they are and take in what answers there are; does not wait.

        A known site under a new node id (a SuperNode that was started again) takes its old place:
        its latest node counts.

        Returns
        -------
        tuple of lists
            Members that are new or came back, and nodes that cannot take part.
        """
        known = {m.node_id for m in self.everyone.values()} | self.strangers.keys()
        for node_id in sorted(self.connected() - known - set(self._asked.values())):
            question = wire.order(
                wire.QUERY, node_id, plan=self.plan, round_number=0, layers={}, ttl=QUERY_TTL
            )
            for message_id in send(self.grid, [question]):
                self._asked[message_id] = node_id
        members, strangers = [], []
        for message_id, reply in fetch(self.grid, list(self._asked)):
            found = _member(self._asked.pop(message_id), reply)
            if isinstance(found, Member):
                members.append(found)
            else:
                strangers.append(found)
                self.strangers[found.node_id] = found
        return members, strangers

    @property
    def waiting(self) -> bool:
        """Whether a node was asked and has not answered."""
        return bool(self._asked)

    def forget_asked(self, connected: set[int]) -> None:
        """Stop waiting for the answers of nodes that are gone."""
        self._asked = {m: n for m, n in self._asked.items() if n in connected}

    def by_task(self) -> dict[str, list[Member]]:
        """Return the members of each task, tasks and members sorted by name."""
        tasks: dict[str, list[Member]] = {}
        for site in sorted(self.members):
            member = self.members[site]
            tasks.setdefault(member.task, []).append(member)
        return dict(sorted(tasks.items()))


SETTLE = 1.0  # seconds without a new node before the roster counts as complete


def gather(
    roster: Roster, *, least: int, join_timeout: float, answer_timeout: float, poll: float
) -> tuple[list[Member], list[Stranger]]:
    """Wait until at least ``least`` nodes have said who they are, and nobody is still to answer.

    Parameters
    ----------
    least : int
        Sites that must have joined, newcomers included.
    join_timeout : float
        Seconds for them to connect.
    answer_timeout : float
        Seconds more for those that are connected to answer: they may have data to read.

    Returns
    -------
    tuple of lists
        Members, and nodes that cannot take part.

    Raises
    ------
    UserError
        Where too few come in time, or two nodes go by one name.
    """
    deadline = time.monotonic() + join_timeout
    settled = time.monotonic() + SETTLE
    found: dict[str, Member] = {}
    refused: list[Stranger] = []
    seen: set[int] = set()
    while True:
        connected = roster.connected()
        if connected - seen:
            seen |= connected
            settled = time.monotonic() + SETTLE
        roster.forget_asked(connected)
        members, strangers = roster.greet()
        refused += strangers
        for member in members:
            _check_name(found, member)
            found[member.site] = member
            roster.place(member)
        now = time.monotonic()
        enough = len(found) + len(refused) >= least
        if enough and now >= settled and not roster.waiting:
            return [found[site] for site in sorted(found)], refused
        if now >= deadline and (not roster.waiting or now >= deadline + answer_timeout):
            beside = f" (besides {len(roster.apart)} newcomers)" if roster.apart else ""
            raise UserError(
                f"{len(found)} of at least {least} sites joined within {join_timeout:g} s "
                f"({', '.join(sorted(found)) or 'none'}); start the missing SuperNodes, give "
                "them longer with strategy.join_timeout, or lower strategy.min_sites"
                f"{beside}"
            )
        time.sleep(poll)


def _check_name(known: Mapping[str, Member], joining: Member) -> None:
    """Refuse two nodes under one name in the beginning: neither can be the other's return."""
    other = known.get(joining.site)
    if other is not None:
        raise UserError(
            f"two nodes call themselves {joining.site!r} ({other.node_id} and "
            f"{joining.node_id}): give each SuperNode a site of its own in --node-config"
        )


def send(grid: Grid, messages: Sequence[Message]) -> list[str]:
    """Push messages one by one (each may be large); return the ids of those that went out."""
    sent: list[str] = []
    for message in messages:
        sent += [message_id for message_id in grid.push_messages([message]) if message_id]
    return sent


def fetch(grid: Grid, message_ids: Sequence[str]) -> Iterator[tuple[str, Message]]:
    """Yield the answers that are there, with their questions' ids; a few in memory at once."""
    for start in range(0, len(message_ids), REPLIES_AT_ONCE):
        for reply in grid.pull_messages(message_ids[start : start + REPLIES_AT_ONCE]):
            yield reply.metadata.reply_to_message_id, reply


def collect(
    grid: Grid,
    waiting: Mapping[str, int],
    *,
    deadline: float,
    poll: float,
    idle: Callable[[], set[str]],
) -> Iterator[tuple[str, Message]]:
    """Yield answers as they arrive until all are there or ``deadline`` (monotonic seconds) passes.

    Parameters
    ----------
    waiting : mapping of str to int
        Message id to node id.
    poll : float
        Seconds between two looks.
    idle : callable
        Called about every two seconds; returns the ids of messages that need not be waited for.
    """
    left = dict(waiting)
    next_idle = time.monotonic() + 2.0
    while left:
        for message_id, reply in fetch(grid, list(left)):
            if left.pop(message_id, None) is not None:
                yield message_id, reply
        now = time.monotonic()
        if not left or now >= deadline:
            return
        if now >= next_idle:
            for message_id in idle():
                left.pop(message_id, None)
            next_idle = time.monotonic() + 2.0
        time.sleep(min(poll, max(deadline - now, 0.0)))


def reply_problem(reply: Message) -> str | None:
    """Return why Flower delivered no content, or None where it did."""
    if reply.has_error():
        return f"{reply.error.reason or 'no reason given'} (code {reply.error.code})"
    return None


def _member(node_id: int, reply: Message) -> Member | Stranger:
    if problem := reply_problem(reply):
        return Stranger(node_id, "", problem)
    try:
        report = read_site_report(reply)
        wire.expect_no_layers(reply)
    except Refused as error:
        return Stranger(node_id, "", str(error))
    if report.error:
        return Stranger(node_id, report.site, report.error)
    return Member(node_id, report)
