"""The beginning of a run: wait until enough sites have said who they are."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from fedstrata.support.errors import UserError
from server_app.patience import Log, Patience
from server_app.sites.members import Member, RejectedSite
from server_app.sites.roster import Roster

SETTLE = 1.0  # seconds without a new node before the roster counts as complete


def gather(
    roster: Roster, *, least: int, join_timeout: float, answer_timeout: float, poll: float, log: Log
) -> tuple[list[Member], list[RejectedSite]]:
    """Wait until at least ``least`` nodes have said who they are, and nobody is still to answer.

    Parameters
    ----------
    least : int
        Sites that must have joined, newcomers included.
    join_timeout : float
        Seconds for them to connect.
    answer_timeout : float
        Seconds more for those that are connected to answer: they may have data to read. Who has
        not answered then is not waited for, if the others are enough.
    log : callable
        Takes a line now and then about who is missing.

    Returns
    -------
    tuple of lists
        Members, and nodes that cannot take part.

    Raises
    ------
    UserError
        Where too few come in time, or two nodes go by one name.
    """
    patience = Patience(log, join_timeout, silent=SETTLE).begin()
    arrivals = _Arrivals()
    settled = time.monotonic() + SETTLE
    while True:
        connected = roster.connected()
        if arrivals.see(connected):
            settled = time.monotonic() + SETTLE
        roster.forget_asked(connected)
        arrivals.add(*roster.greet(), roster)
        found = [arrivals.found[site] for site in sorted(arrivals.found)]
        rejected = arrivals.rejected(roster.rejected)
        enough = arrivals.is_enough(least, roster.rejected)
        if enough and time.monotonic() >= settled and not roster.waiting:
            return found, rejected
        if patience.is_over() and (not roster.waiting or patience.is_over(answer_timeout)):
            if enough:
                return found, rejected
            raise UserError(_too_few(roster, connected, arrivals, least, join_timeout, rejected))
        patience.remind(
            f"{len(found)} of at least {least} sites are there "
            f"({arrivals.names}){_missing(roster, connected)}"
        )
        patience.look_again(poll)


@dataclass
class _Arrivals:
    """Who has arrived so far: the sites by name, and the nodes that were refused for who they are."""

    found: dict[str, Member] = field(default_factory=dict)
    unauthorized: list[RejectedSite] = field(default_factory=list)
    _seen: set[int] = field(default_factory=set)

    @property
    def names(self) -> str:
        """The names of the sites, for people."""
        return ", ".join(sorted(self.found)) or "none"

    def see(self, connected: Collection[int]) -> bool:
        """Note the nodes that are connected; return whether one is new."""
        new = set(connected) - self._seen
        self._seen |= new
        return bool(new)

    def add(
        self,
        members: list[Member],
        rejected: list[RejectedSite],
        roster: Roster,
    ) -> None:
        """Note who answered; raise UserError where two nodes go by one name."""
        self.unauthorized += [site for site in rejected if site.unauthorized]
        for member in members:
            if member.site in self.found:  # asking the grid for all nodes costs a request
                check_name(self.found, member, roster.connected())
            self.found[member.site] = member
            roster.place(member)

    def unfit(self, rejected: list[RejectedSite]) -> list[RejectedSite]:
        """Return the sites that answered, but cannot take part now."""
        return [s for s in rejected if not s.unauthorized and s.site not in self.found]

    def rejected(self, rejected: list[RejectedSite]) -> list[RejectedSite]:
        """Return everybody who answered and cannot take part."""
        return [*self.unfit(rejected), *self.unauthorized]

    def is_enough(self, least: int, rejected: list[RejectedSite]) -> bool:
        """Return whether enough sites answered. Those that cannot take part count.

        Waiting would not help there: the run says what is wrong with them. It helps where a site
        may take part later.
        """
        for_good = [site for site in self.unfit(rejected) if not site.later]
        return len(self.found) + len(for_good) >= least


def check_name(found: Mapping[str, Member], joining: Member, connected: Collection[int]) -> None:
    """Raise UserError where two nodes go by one name, unless one is the other's return."""
    other = found.get(joining.site)
    if other is not None and other.node_id in connected:
        raise UserError(
            f"two nodes call themselves {joining.site!r} ({other.node_id} and "
            f"{joining.node_id}): give each SuperNode a site of its own in --node-config"
        )


def _too_few(
    roster: Roster,
    connected: set[int],
    arrivals: _Arrivals,
    least: int,
    join_timeout: float,
    rejected: list[RejectedSite],
) -> str:
    """Return what to say where too few sites joined in time."""
    names = roster.newcomer_names
    beside = f" (besides {len(names)} newcomers)" if names else ""
    lines = [f"\n  {site}" for site in rejected]
    return (
        f"{len(arrivals.found)} of at least {least} sites joined within {join_timeout:g} s "
        f"({arrivals.names}){_missing(roster, connected)}; start the "
        "missing SuperNodes, give them longer with strategy.join_timeout, or lower "
        f"strategy.min_sites{beside}{''.join(lines)}"
    )


def _missing(roster: Roster, connected: set[int]) -> str:
    missing = roster.unavailable(connected, newcomers=True)
    reasons = [f"{roster.described(site)}: {why}" for site, why in missing.items()]
    return f"; missing: {'; '.join(reasons)}" if reasons else ""
