"""Before round 1: what a method asks of all sites once, as a mean over them."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from typing import Any

from flwr.app import Message

from fedstrata.protocol import kinds
from fedstrata.protocol.limits import NotNow, Refused
from fedstrata.support.errors import UserError
from server_app.patience import Patience
from server_app.rounds.checks import checked_cohort, checked_update
from server_app.rounds.contribution import Update
from server_app.rounds.dispatch import TTL_MARGIN, Ask
from server_app.rounds.judging import Judged, RoundJudge, held_for, update_norms
from server_app.rounds.loop import Rounds
from server_app.rounds.recipients import Recipients
from server_app.rounds.records import RoundRecord
from server_app.rounds.state import ServerState, examples_by_scope
from server_app.sites.members import Member


def open_run(rounds: Rounds) -> dict[str, Any] | None:
    """Ask every member for the method's opening, and let the states of its groups begin with it.

    Nothing happens for a method without an opening. What a site sends is judged by
    ``strategy.bounds``, as in a round. Who is outside its hours is asked again, until
    ``strategy.give_up`` seconds have passed: no later round asks for it.

    Returns
    -------
    dict or None
        ``opening`` of the first round in results.json.

    Raises
    ------
    UserError
        Where fewer sites answer than ``strategy.min_sites``, or none of a scope.
    """
    state, groups = rounds.state, rounds.state.method.opening()
    if not groups:
        return None
    rounds.delivery.deliver(rounds.roster.members.keys(), ())
    members = sorted(rounds.roster.members.values(), key=lambda member: member.site)
    expected = state.begin_round(
        {member.site: member.report.examples["train"] for member in members},
        {member.site: member.variant for member in members},
        0,
        lambda: examples_by_scope(state, members),
        groups,
    )
    opening = _Opening(rounds, members, expected)
    opening.ask_all()
    opening.close()
    record, answered, heard = opening.record, opening.answered, opening.heard
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
    return opening.to_dict(groups)


class _Opening:
    """What was asked before round 1, and what was aggregated so far.

    Parameters
    ----------
    rounds : Rounds
        The run's.
    members : list of Member
        Who is asked.
    expected : mapping of str to int
        By scope key, the examples of all who are asked.
    """

    def __init__(self, rounds: Rounds, members: list[Member], expected: Mapping[str, int]) -> None:
        self.rounds, self.members, self.expected = rounds, members, dict(expected)
        self.record, self.heard = RoundRecord(0), set[str]()
        self.answered = dict.fromkeys(expected, 0)
        self._closed: dict[str, str] = {}
        self._began = time.monotonic()
        bounds = rounds.settings.bounds
        alone = [member.variant for member in members if not member.in_cohort]
        self._judge = RoundJudge[Update](bounds, held_for(alone, rounds.state, bounds))

    def ask_all(self) -> None:
        """Ask every member; again, who is outside its hours."""
        rounds, settings = self.rounds, self.rounds.settings
        patience = Patience(rounds.log, settings.give_up)
        asked = self.members
        for attempt in itertools.count():
            self._closed = {}
            self._ask(asked)
            if patience.begin().is_over() or not self._closed:
                break
            reasons = "; ".join(f"{name}: {why}" for name, why in sorted(self._closed.items()))
            patience.remind(f"before round 1: asked again later: {reasons}")
            patience.pause(
                attempt,
                settings.poll,
                closed=True,
                interrupted=lambda: rounds.dispatch.admission.welcome(rounds.roster.connected()),
            )
            there = rounds.roster.members
            asked = [there[name] for name in sorted(self._closed) if name in there]
        if self._closed:
            self.record.refused |= self._closed
            rounds.log(
                f"before round 1: gave up on {', '.join(sorted(self._closed))} after "
                f"{settings.give_up:g} s (strategy.give_up); the run goes on without what they know"
            )

    def _ask(self, members: Sequence[Member]) -> None:
        rounds, state = self.rounds, self.rounds.state
        # Whole, for no site has a state to which differences could be.
        states = dict(state.states)
        ask = Ask(kinds.OPEN, 0, rounds.settings.deadline, expected=self.expected, states=states)
        for recipients, reply in rounds.dispatch.ask(ask, members, self.record):
            try:
                update = _checked(rounds, reply, recipients, self.expected)
            except Refused as error:
                self._refuse(dict.fromkeys(recipients.sites, error))
                continue
            if recipients.in_cohort:  # a sum, in which no site's own part can be measured
                self._take(update)
                continue
            for each in self._judge.add(*_measured(update, state)):
                self._take(each.item)

    def _refuse(self, problems: Mapping[str, Refused]) -> None:
        for site, why in problems.items():
            into = self._closed if isinstance(why, NotNow) else self.record.refused
            into[site] = str(why)

    def close(self) -> None:
        """Aggregate what was held, and is accepted."""
        accepted, refused = self._judge.close()
        self.record.refused |= refused
        for judged, weights in accepted:
            self._take(judged.item.weighted(judged.site, weights))

    def _take(self, update: Update) -> None:
        """Aggregate an answer."""
        self._refuse(update.problems)
        self.rounds.state.add(update.contributions)
        self.record.count_up(update.contributions)
        for key, contribution in update.contributions.items():
            self.answered[key] += len(contribution.sites)
        self.heard |= update.reports.keys()

    def to_dict(self, groups: Sequence[str]) -> dict[str, Any]:
        """Return plain data."""
        record = self.record
        return {
            "groups": list(groups),
            "seconds": time.monotonic() - self._began,
            "bytes_down": dict(sorted(record.bytes_down.items())),
            "bytes_up": dict(sorted(record.bytes_up.items())),
            "participants": sorted(self.heard),
            "refused": dict(sorted(record.refused.items())),
            "late": dict(sorted(record.late.items())),
            "absent": dict(sorted(record.absent.items())),
        }


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
