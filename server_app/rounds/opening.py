"""Before round 1: what a method asks of all sites once, as a mean over them."""

from __future__ import annotations

from dataclasses import dataclass, field

from flwr.app import Message

from fedstrata.protocol import kinds
from fedstrata.protocol.limits import Refused
from fedstrata.support.errors import UserError
from server_app.rounds.checks import checked_cohort, checked_update
from server_app.rounds.contribution import Update
from server_app.rounds.dispatch import TTL_MARGIN, Ask
from server_app.rounds.judging import Judged, RoundJudge, held_for, update_norms
from server_app.rounds.loop import Rounds
from server_app.rounds.recipients import Recipients
from server_app.rounds.records import RoundRecord
from server_app.rounds.state import ServerState, examples_by_scope


def open_run(rounds: Rounds) -> None:
    """Ask every member for the method's opening, and let the states of its groups begin with it.

    Nothing happens for a method without an opening. What a site sends is judged by
    ``strategy.bounds``, as in a round.

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
        {member.site: member.variant for member in members},
        0,
        lambda: examples_by_scope(state, members),
        groups,
    )
    record, opened = RoundRecord(0), _Opened(rounds, dict.fromkeys(expected, 0))
    bounds = rounds.settings.bounds
    alone = [member.variant for member in members if not member.in_cohort]
    judge = RoundJudge[Update](bounds, held_for(alone, state, bounds))
    # Whole, for no site has a state to which differences could be.
    ask = Ask(kinds.OPEN, 0, rounds.settings.deadline, expected=expected, states=dict(state.states))
    for recipients, reply in rounds.dispatch.ask(ask, members, record):
        try:
            update = _checked(rounds, reply, recipients, expected)
        except Refused as error:
            record.refused |= dict.fromkeys(recipients.sites, str(error))
            continue
        if recipients.in_cohort:  # a sum, in which no site's own part can be measured
            opened.take(update, record)
            continue
        for each in judge.add(*_measured(update, state)):
            opened.take(each.item, record)
    accepted, refused = judge.close()
    record.refused |= refused
    for judged, weights in accepted:
        opened.take(judged.item.weighted(judged.site, weights), record)
    answered, heard = opened.answered, opened.heard
    for site, why in record.missed.items():
        rounds.log(f"before round 1: {site} sent nothing that is taken: {why}")
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


@dataclass
class _Opened:
    """What was aggregated so far: answers by scope key, and the sites they are of."""

    rounds: Rounds
    answered: dict[str, int]
    heard: set[str] = field(default_factory=set)

    def take(self, update: Update, record: RoundRecord) -> None:
        """Aggregate an answer."""
        record.refused |= {site: str(why) for site, why in update.problems.items()}
        self.rounds.state.add(update.contributions)
        record.count_up(update.contributions)
        for key, contribution in update.contributions.items():
            self.answered[key] += len(contribution.sites)
        self.heard |= update.reports.keys()


def _measured(update: Update, state: ServerState) -> tuple[Judged[Update], dict[str, float]]:
    """Return what a site sent as it is judged, and its norms."""
    ((site, report),) = update.reports.items()
    norms: dict[str, float] = {}
    for key, contribution in update.contributions.items():
        norms |= update_norms(key, contribution.tensors, state.states[key])
    return Judged(site, update, report.examples, tuple(update.contributions)), norms


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
        state.partitions[member.variant],
        state.method,
        state.references(member.variant),
        within,
        state.method.opening(),
    )
