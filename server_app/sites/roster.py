"""Who takes part: nodes that said who they are, known by the site's name from then on."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

from fedstrata.protocol import kinds, orders
from server_app.inbox import Inbox, send
from server_app.patience import SAY_EVERY
from server_app.sites.allowed_keys import AllowedSites
from server_app.sites.members import Member, RejectedSite, identified

QUERY_TTL = 3600.0
MOST_WAIT = 600.0  # seconds until a node that cannot take part is asked again


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
    allowed : AllowedSites, optional
        Which node may be which site; without it, each is who it says it is.
    most : int
        Sites that one node may answer for, as a cohort; with 1 there are no cohorts.
    """

    grid: Grid
    plan: str
    apart: frozenset[str] = frozenset()
    allowed: AllowedSites | None = None
    most: int = 1
    members: dict[str, Member] = field(default_factory=dict)
    newcomers: dict[str, Member] = field(default_factory=dict)
    _rejected: dict[int, list[RejectedSite]] = field(default_factory=dict)  # by node
    _asked: dict[str, int] = field(default_factory=dict)
    _again: dict[int, tuple[float, float]] = field(default_factory=dict)  # when, and how long then
    _unauthorized: list[RejectedSite] = field(default_factory=list)
    _inbox: Inbox = field(init=False)

    def __post_init__(self) -> None:
        self._inbox = Inbox(self.grid)

    @property
    def rejected(self) -> list[RejectedSite]:
        """Return what is known of nodes, or sites of a cohort, that cannot take part."""
        return [rejected_site for told in self._rejected.values() for rejected_site in told]

    def connected(self) -> set[int]:
        """Return the ids of the nodes that the SuperLink sees now."""
        return set(self.grid.get_node_ids())

    @property
    def everyone(self) -> dict[str, Member]:
        """Return members and newcomers by name."""
        return {**self.members, **self.newcomers}

    def place(self, member: Member) -> bool:
        """Put a site among the members or the newcomers; return whether it was there before.

        Under a name that was there before, the latest node counts; with a roster there is only one
        node that can become a `Member` of that name.
        """
        side = self.newcomers if member.site in self.apart else self.members
        known = member.site in side
        side[member.site] = member
        return known

    def change_plan(self, plan: str) -> None:
        """Ask with another plan from now on, and again who has not answered to the one before."""
        self.plan = plan
        self._asked.clear()

    def clear(self) -> None:
        """Forget who takes part."""
        self.members.clear()
        self.newcomers.clear()

    def greet(self) -> tuple[list[Member], list[RejectedSite]]:
        """Ask unknown nodes who they are and take in what answers there are; does not wait.

        A known site under a new node id (a SuperNode that was started again) takes its old place:
        its latest node counts. A node that could not take part is asked again when it comes back,
        and now and then while it stays: what is wrong there may be mended.

        Returns
        -------
        tuple of lists
            Members that are new or came back, and nodes that cannot take part for a reason that
            they have not given before.
        """
        connected = self.connected()
        self._rejected = {n: told for n, told in self._rejected.items() if n in connected}
        self._again = {n: when for n, when in self._again.items() if n in self._rejected}
        now = time.monotonic()
        due = {n for n in self._rejected if n in self._again and self._again[n][0] <= now}
        hopeless = self._rejected.keys() - due
        known = {m.node_id for m in self.everyone.values()} - due | hopeless
        for node_id in sorted(connected - known - set(self._asked.values())):
            question = orders.order(
                kinds.QUERY, node_id, plan=self.plan, round_number=0, layers={}, ttl=QUERY_TTL
            )
            for message_id in send(self.grid, [question]):
                self._asked[message_id] = node_id
        members, rejected = [], []
        for message_id, reply in self._inbox.fetch(list(self._asked)):
            if message_id not in self._asked:
                continue
            node_id = self._asked.pop(message_id)
            if reply.has_error() and reply.error.code == ErrorCode.NODE_UNAVAILABLE:
                continue  # it went while it was asked, as one whose SuperNode is started again does
            found = identified(node_id, reply, self.allowed, self.most)
            before = self._rejected.pop(node_id, [])
            members += [m for m in found if isinstance(m, Member) and not self._is_known(m)]
            told = [
                rejected_site for rejected_site in found if isinstance(rejected_site, RejectedSite)
            ]
            rejected += [rejected_site for rejected_site in told if rejected_site not in before]
            self._unauthorized += [
                rejected_site for rejected_site in told if rejected_site.unauthorized
            ]
            if not told:
                continue
            self._rejected[node_id] = told
            if any(rejected_site.unauthorized for rejected_site in told):
                self._again.pop(node_id, None)
            else:
                self._ask_again(node_id)
        return members, rejected

    def _is_known(self, member: Member) -> bool:
        """Whether a cohort was asked again for another site's sake, and this one is as it was."""
        return member.in_cohort and self.everyone.get(member.site) == member

    def note_rejected(self, rejected_site: RejectedSite) -> None:
        """Note a node that answered, but does not fit."""
        told = self._rejected.setdefault(rejected_site.node_id, [])
        told[:] = [other for other in told if other.site != rejected_site.site] + [rejected_site]
        self._ask_again(rejected_site.node_id)

    def _ask_again(self, node_id: int) -> None:
        """Ask a node again after a while, and then after twice as long."""
        wait = self._again.get(node_id, (0.0, SAY_EVERY))[1]
        self._again[node_id] = (time.monotonic() + wait, min(2 * wait, MOST_WAIT))

    def rejected_reasons(self) -> dict[str, str]:
        """Return why each site that is there, under its own name, cannot take part; by name."""
        there = {(member.node_id, member.site) for member in self.everyone.values()}
        return {
            rejected_site.site: f"cannot take part: {rejected_site.reason}"
            for rejected_site in self.rejected
            if rejected_site.site
            and not rejected_site.unauthorized
            and (rejected_site.node_id, rejected_site.site) not in there
        }

    def take_unauthorized(self) -> list[RejectedSite]:
        """Return the nodes that were refused as unauthorized since this was last called."""
        told, self._unauthorized = self._unauthorized, []
        return told

    def unavailable(self, connected: set[int], *, newcomers: bool = False) -> dict[str, str]:
        """Return why each site that is known, but cannot work now, cannot; by name.

        Known are the sites that joined, those that said why they cannot take part, and all of the
        roster where there is one.

        Parameters
        ----------
        connected : set of int
            The nodes that the SuperLink sees now.
        newcomers : bool
            Whether newcomers count.
        """
        there = self.everyone if newcomers else self.members
        missing = {s: "not connected" for s, m in there.items() if m.node_id not in connected}
        for site, why in self.rejected_reasons().items():
            if site not in self.everyone or site in missing:
                missing[site] = why
        for site, entry in (self.allowed.by_site if self.allowed else {}).items():
            if site not in self.everyone and site not in missing:
                missing[site] = self._not_in(entry.node_id, connected)
        apart = frozenset[str]() if newcomers else self.apart
        return {site: why for site, why in sorted(missing.items()) if site not in apart}

    def _not_in(self, node_id: int, connected: set[int]) -> str:
        """Return why the site of a node of the roster has not joined."""
        if node_id not in connected:
            return "not connected since the run began"
        unauthorized = node_id in self._rejected
        return "connected, but not as itself" if unauthorized else "connected, has not answered"

    def described(self, site: str) -> str:
        """Return a site for people: its roster entry, or its task and node, or its name alone."""
        if self.allowed and site in self.allowed.by_site:
            return str(self.allowed.by_site[site])
        member = self.everyone.get(site)
        return f"{site} (task {member.task}, node {member.node_id})" if member else site

    @property
    def waiting(self) -> bool:
        """Whether a node was asked and has not answered; nobody waits for one not on the roster."""
        asked = self._asked.values()
        return any(self.allowed is None or node in self.allowed.by_node for node in asked)

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
