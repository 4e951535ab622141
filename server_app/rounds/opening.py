"""Before round 1: what a method asks of all sites once, as a mean over them."""

from __future__ import annotations

from flwr.app import Message

from fedstrata.protocol import kinds
from fedstrata.protocol.limits import Refused
from fedstrata.support.errors import UserError
from server_app.rounds.checks import checked_cohort, checked_update
from server_app.rounds.contribution import Update
from server_app.rounds.dispatch import TTL_MARGIN, Ask
from server_app.rounds.loop import Rounds
from server_app.rounds.recipients import Recipients
from server_app.rounds.records import RoundRecord
from server_app.rounds.state import examples_by_scope


def open_run(rounds: Rounds) -> None:
    """Ask every member for the method's opening, and let the states of its groups begin with it.

    Nothing happens for a method without an opening.

    Raises
    ------
    UserError
        Where fewer sites answer than ``strategy.min_sites``, or none of a scope.
    """
    state, groups = rounds.state, rounds.state.method.opening()
    if not groups:
        return
    rounds.delivery.deliver(rounds.roster.members.keys(), ())
    members = sorted(rounds.roster.members.values(), key=lambda member: member.site)
    expected = state.begin_round(
        {member.site: member.report.examples["train"] for member in members},
        {member.site: member.task for member in members},
        0,
        lambda: examples_by_scope(state, members),
        groups,
    )
    record = RoundRecord(0)
    answered = dict.fromkeys(expected, 0)
    heard: set[str] = set()
    # Whole, for no site has a state to which differences could be.
    ask = Ask(kinds.OPEN, 0, rounds.settings.deadline, expected=expected, states=dict(state.states))
    for recipients, reply in rounds.dispatch.ask(ask, members, record):
        try:
            update = _checked(rounds, reply, recipients, expected)
        except Refused as error:
            record.refused |= dict.fromkeys(recipients.sites, str(error))
            continue
        record.refused |= {site: str(why) for site, why in update.problems.items()}
        state.add(update.contributions)
        record.count_up(update.contributions)
        for key, contribution in update.contributions.items():
            answered[key] += len(contribution.sites)
        heard |= update.reports.keys()
    for site, why in record.missed.items():
        rounds.log(f"before round 1: {site} sent nothing: {why}")
    least = max(rounds.settings.min_sites, 1)
    without = sorted(key for key, count in answered.items() if not count)
    if len(heard) < least or without:
        of = f", and none of {', '.join(without)}" if without else ""
        raise UserError(
            f"before round 1: {len(heard)} of {len(members)} sites sent what method "
            f"{state.method.name} needs, and {least} are needed{of}: see the log for the reasons"
        )
    state.finish_round(answered)
    size = sum(record.bytes_up.values())
    rounds.log(f"before round 1: {', '.join(groups)} of {len(heard)} sites, {size} bytes")


def _checked(
    rounds: Rounds, reply: Message, recipients: Recipients, expected: dict[str, int]
) -> Update:
    """Return what a site, or a cohort's sites, sent; or raise Refused."""
    state, within = rounds.state, rounds.settings.deadline + TTL_MARGIN
    if recipients.in_cohort:
        members = recipients.members
        return checked_cohort(reply, members, 0, state.partitions, expected, state.method, within)
    (member,) = recipients.members
    return checked_update(
        reply,
        member,
        0,
        state.partitions[member.task],
        state.method,
        state.references(member.task),
        within,
        state.method.opening(),
    )
