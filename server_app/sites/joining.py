"""The beginning of a run: wait until enough sites have said who they are."""

from __future__ import annotations

import time
from collections.abc import Mapping

from fedstrata.support.errors import UserError
from server_app.patience import Log, Reminder
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
    deadline = time.monotonic() + join_timeout
    settled = time.monotonic() + SETTLE
    found: dict[str, Member] = {}
    unauthorized: list[RejectedSite] = []
    seen: set[int] = set()
    remind = Reminder(log, due=time.monotonic() + SETTLE)
    while True:
        connected = roster.connected()
        if connected - seen:
            seen |= connected
            settled = time.monotonic() + SETTLE
        roster.forget_asked(connected)
        members, rejected = roster.greet()
        unauthorized += [rejected_site for rejected_site in rejected if rejected_site.unauthorized]
        for member in members:
            _check_name(found, member, roster)
            found[member.site] = member
            roster.place(member)
        now = time.monotonic()
        rejected_reasons = [
            rejected_site
            for rejected_site in roster.rejected
            if not rejected_site.unauthorized and rejected_site.site not in found
        ]
        refused = [*rejected_reasons, *unauthorized]
        enough = len(found) + len(rejected_reasons) >= least
        if enough and now >= settled and not roster.waiting:
            return [found[site] for site in sorted(found)], refused
        if now >= deadline and (not roster.waiting or now >= deadline + answer_timeout):
            if enough:
                return [found[site] for site in sorted(found)], refused
            beside = f" (besides {len(roster.apart)} newcomers)" if roster.apart else ""
            lines = [f"\n  {rejected_site}" for rejected_site in refused]
            raise UserError(
                f"{len(found)} of at least {least} sites joined within {join_timeout:g} s "
                f"({', '.join(sorted(found)) or 'none'}){_missing(roster, connected)}; start the "
                "missing SuperNodes, give them longer with strategy.join_timeout, or lower "
                f"strategy.min_sites{beside}{''.join(lines)}"
            )
        remind(
            f"{len(found)} of at least {least} sites are there "
            f"({', '.join(sorted(found)) or 'none'}){_missing(roster, connected)}"
        )
        time.sleep(poll)


def _missing(roster: Roster, connected: set[int]) -> str:
    missing = roster.unavailable(connected, newcomers=True)
    told = [f"{roster.described(site)}: {why}" for site, why in missing.items()]
    return f"; missing: {'; '.join(told)}" if told else ""


def _check_name(known: Mapping[str, Member], joining: Member, roster: Roster) -> None:
    """Refuse two nodes under one name in the beginning, unless one is the other's return."""
    other = known.get(joining.site)
    if other is not None and other.node_id in roster.connected():
        raise UserError(
            f"two nodes call themselves {joining.site!r} ({other.node_id} and "
            f"{joining.node_id}): give each SuperNode a site of its own in --node-config"
        )
