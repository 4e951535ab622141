"""Who takes part: nodes that said who they are, known by the site's name from then on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

from fedstrata.protocol import kinds, orders
from server_app.audit import RunAudit
from server_app.inbox import Inbox, send
from server_app.patience import Backoff
from server_app.sites.allowed_keys import AllowedSites
from server_app.sites.members import Member, RejectedSite, identified

QUERY_TTL = 3600.0  # seconds that a query waits in the SuperLink for its node
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
    newcomer_names : frozenset of str
        Names of the sites that join after the rounds.
    allowed : AllowedSites, optional
        Which node may be which site; without it, each is who it says it is.
    most : int
        Sites that one node may answer for, as a cohort; with 1 there are no cohorts.
    only_allowed : bool
        Whether nodes that are not in ``allowed`` are sent nothing, not even a query.
    audit : RunAudit
        The run's audit log.
    """

    grid: Grid
    plan: str
    newcomer_names: frozenset[str] = frozenset()
    allowed: AllowedSites | None = None
    most: int = 1
    only_allowed: bool = False
    audit: RunAudit = field(default_factory=RunAudit)
    members: dict[str, Member] = field(default_factory=dict)
    newcomers: dict[str, Member] = field(default_factory=dict)
    _rejected: dict[int, list[RejectedSite]] = field(default_factory=dict)  # by node
    _asked: dict[str, int] = field(default_factory=dict)  # query to node
    _again: Backoff = field(default_factory=lambda: Backoff(MOST_WAIT))
    _unauthorized: list[RejectedSite] = field(default_factory=list)
    _inbox: Inbox = field(init=False)

    def __post_init__(self) -> None:
        self._inbox = Inbox(self.grid)

    @property
    def rejected(self) -> list[RejectedSite]:
        """Return the nodes, or sites of a cohort, that cannot take part."""
        return [site for sites in self._rejected.values() for site in sites]

    def connected(self) -> set[int]:
        """Return the ids of the nodes that the SuperLink sees now, and that may take part."""
        connected = set(self.grid.get_node_ids())
        if self.only_allowed and self.allowed is not None:
            connected &= self.allowed.by_node.keys()
        return connected

    @property
    def everyone(self) -> dict[str, Member]:
        """Return members and newcomers by name."""
        return {**self.members, **self.newcomers}

    def place(self, member: Member) -> bool:
        """Put a site among the members or the newcomers; return whether it was there before.

        Under a name that was there before, the latest node counts; with a roster there is only one
        node that can become a `Member` of that name.
        """
        side = self.newcomers if member.site in self.newcomer_names else self.members
        known = member.site in side
        side[member.site] = member
        return known

    def change_plan(self, plan: str) -> None:
        """Ask with another plan from now on, and again who has not answered to the one before."""
        self.plan = plan
        self.stop_asking("it is asked again, with another plan")

    def clear(self) -> None:
        """Forget who takes part."""
        self.members.clear()
        self.newcomers.clear()

    def greet(self) -> tuple[list[Member], list[RejectedSite]]:
        """Ask unknown nodes who they are and read the answers that are there; do not wait.

        A known site under a new node id (a SuperNode that was started again) gets its old place:
        its latest node counts. A node that could not take part is asked again when it comes back,
        and now and then while it stays: what is wrong there may be mended.

        Returns
        -------
        tuple of lists
            Members that are new or came back, and nodes that cannot take part for a reason that
            they have not given before.
        """
        self._ask_unknown(self.connected())
        members: list[Member] = []
        rejected: list[RejectedSite] = []
        for message_id, reply in self._inbox.fetch(list(self._asked)):
            if message_id not in self._asked:
                continue
            node_id = self._asked.pop(message_id)
            if reply.has_error() and reply.error.code == ErrorCode.NODE_UNAVAILABLE:
                continue  # it went while it was asked, as one whose SuperNode is started again does
            found = identified(node_id, reply, self.allowed, self.most)
            self.audit.arrived(kinds.QUERY, 0, self._names(node_id, found), reply)
            members += [m for m in found if isinstance(m, Member) and not self._is_known(m)]
            rejected += self._note_answer(
                node_id, [s for s in found if isinstance(s, RejectedSite)]
            )
        return members, rejected

    def note_rejected(self, site: RejectedSite) -> None:
        """Note a node that answered, but does not fit."""
        sites = self._rejected.setdefault(site.node_id, [])
        sites[:] = [other for other in sites if other.site != site.site] + [site]
        self._again.postpone(site.node_id)

    def rejected_reasons(self) -> dict[str, str]:
        """Return why each site that is there, under its own name, cannot take part; by name."""
        there = {(member.node_id, member.site) for member in self.everyone.values()}
        return {
            site.site: site.reason if site.later else f"cannot take part: {site.reason}"
            for site in self.rejected
            if site.site and not site.unauthorized and (site.node_id, site.site) not in there
        }

    def take_unauthorized(self) -> list[RejectedSite]:
        """Return the nodes that were refused as unauthorized since this was last called."""
        found, self._unauthorized = self._unauthorized, []
        return found

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
        for site, reason in self.rejected_reasons().items():
            if site not in self.everyone or site in missing:
                missing[site] = reason
        for site, entry in (self.allowed.by_site if self.allowed else {}).items():
            if site not in self.everyone and site not in missing:
                missing[site] = self._why_not_joined(entry.node_id, connected)
        left_out = frozenset[str]() if newcomers else self.newcomer_names
        return {site: why for site, why in sorted(missing.items()) if site not in left_out}

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
        gone = {m: n for m, n in self._asked.items() if n not in connected}
        self._drop(gone, "its node is gone")

    def stop_asking(self, why: str) -> None:
        """Stop waiting for every answer."""
        self._drop(dict(self._asked), why)

    def by_task(self) -> dict[str, list[Member]]:
        """Return the members of each task, tasks and members sorted by name."""
        tasks: dict[str, list[Member]] = {}
        for site in sorted(self.members):
            member = self.members[site]
            tasks.setdefault(member.task, []).append(member)
        return dict(sorted(tasks.items()))

    def _ask_unknown(self, connected: set[int]) -> None:
        """Send a query to each node that is not known, and to those whose pause is over."""
        self._rejected = {n: sites for n, sites in self._rejected.items() if n in connected}
        self._again.retain(self._rejected.keys())
        due = self._again.due()
        not_yet = self._rejected.keys() - due
        known = {m.node_id for m in self.everyone.values()} - due | not_yet
        for node_id in sorted(connected - known - set(self._asked.values())):
            query = orders.order(
                kinds.QUERY, node_id, plan=self.plan, round_number=0, layers={}, ttl=QUERY_TTL
            )
            for message_id in send(self.grid, [query]):
                self._asked[message_id] = node_id

    def _note_answer(self, node_id: int, rejected: list[RejectedSite]) -> list[RejectedSite]:
        """Note what of a node's answer cannot take part; return what it has not said before."""
        before = self._rejected.pop(node_id, [])
        unauthorized = [site for site in rejected if site.unauthorized]
        self._unauthorized += unauthorized
        if rejected:
            self._rejected[node_id] = rejected
            if unauthorized:
                self._again.forget(node_id)  # who it is does not change: it is asked no more
            else:
                # Who waits for a person of the site is asked as soon the next time as this time.
                self._again.postpone(node_id, longer=not any(site.later for site in rejected))
        return [site for site in rejected if site not in before]

    def _drop(self, asked: dict[str, int], why: str) -> None:
        for message_id, node_id in asked.items():
            del self._asked[message_id]
            self.audit.not_awaited(kinds.QUERY, 0, self._names(node_id, ()), why)

    def _names(self, node_id: int, found: Iterable[Member | RejectedSite]) -> list[str]:
        """Return whose answer it is, for the audit log: by the roster, or by its own words."""
        if self.allowed is not None:
            entry = self.allowed.by_node.get(node_id)
            return [entry.site if entry else f"node {node_id}"]
        known = [member for member in self.everyone.values() if member.node_id == node_id]
        return sorted({one.site for one in found if one.site} or {one.site for one in known})

    def _is_known(self, member: Member) -> bool:
        """Whether a cohort was asked again for another site's sake, and this one is as it was."""
        return member.in_cohort and self.everyone.get(member.site) == member

    def _why_not_joined(self, node_id: int, connected: set[int]) -> str:
        """Return why the site of a node of the roster has not joined."""
        if node_id not in connected:
            return "not connected since the run began"
        rejected = node_id in self._rejected
        return "connected, but not as itself" if rejected else "connected, has not answered"
