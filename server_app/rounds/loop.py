"""The round loop: ask, check, aggregate as answers arrive, and continue with whoever is there."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from flwr.app import Message

from fedstrata.protocol import kinds
from fedstrata.protocol.limits import NotFinite, NotNow, Refused
from fedstrata.support.errors import UserError
from server_app.patience import Log, Patience
from server_app.rounds import sampling
from server_app.rounds.asking import History, round_ask
from server_app.rounds.checkpoint_delivery import CheckpointDelivery
from server_app.rounds.checks import checked_cohort, checked_update
from server_app.rounds.contribution import Update
from server_app.rounds.dispatch import TTL_MARGIN, Dispatch
from server_app.rounds.judging import Judged, RoundJudge, held_for, update_norms
from server_app.rounds.recipients import Recipients
from server_app.rounds.records import RoundRecord, task_metrics
from server_app.rounds.state import ServerState, examples_by_scope
from server_app.sites.members import Member
from server_app.sites.roster import Roster
from strategies.config import ChooseConfig, StrategyConfig

NEVER_JOINED = "sites that never joined; strategy.fraction may ask too few of those that did"
Answer = tuple[Recipients, Update]


class UnusableState(Exception):
    """Most sites could not compute with the state that a round began with.

    Parameters
    ----------
    number : int
        The round.
    reasons : dict of str to str
        What the sites said, by name.
    """

    def __init__(self, number: int, reasons: dict[str, str]) -> None:
        self.number, self.reasons = number, reasons
        super().__init__("; ".join(f"{site}: {why}" for site, why in sorted(reasons.items())))


@dataclass
class Attempt:
    """One attempt at a round.

    Parameters
    ----------
    asked : list of Member
        Who was asked.
    record : RoundRecord
        What happened.
    answers : dict of str to int
        How many answers each scope that was asked got.
    closed : set of str
        Sites that were asked outside their hours.
    diverged : dict of str to str
        Sites that could not compute with what they received, and what they said.
    lost : bool
        Whether a site that was refused had known states. It is sent whole layers the next time,
        so asking it again may help.
    short : str
        What was too little for a round. Nothing has changed at the server then. "" where it
        sufficed.
    """

    asked: list[Member]
    record: RoundRecord
    answers: dict[str, int]
    closed: set[str] = field(default_factory=set)
    diverged: dict[str, str] = field(default_factory=dict)
    lost: bool = False
    short: str = ""

    def is_short_by_hours(
        self, state: ServerState, needed: Iterable[str], minimum: Mapping[str, int]
    ) -> bool:
        """Return whether too few were left, had all answered that are not outside their hours."""
        able = [member for member in self.asked if member.site not in self.closed]
        could = Counter(key for member in able for key in state.scope_keys(member.variant).values())
        return bool(self.closed and (not able or sampling.too_few(needed, could, minimum)))


@dataclass
class Rounds:
    """Plays rounds.

    Parameters
    ----------
    roster : Roster
        Who takes part.
    state : ServerState
        What was learned; replaced group by group as rounds end.
    settings : StrategyConfig
        Fraction, deadline, minimum and so on.
    seed : int
        The run's seed; who is asked in a round follows from it and the round's number.
    dispatch : Dispatch
        The way to the sites.
    delivery : CheckpointDelivery
        Gives sites the pre-trained checkpoint before a round asks them.
    log : callable
        Takes a line.
    choose : ChooseConfig
        Which state is the best: sites keep what belongs to it.
    checkpoints : callable
        Returns the rounds from which the run may be resumed, ascending, where not every round has a
        checkpoint: sites keep what belongs to them. Nothing where each has one.
    """

    roster: Roster
    state: ServerState
    settings: StrategyConfig
    seed: int
    dispatch: Dispatch
    delivery: CheckpointDelivery
    log: Log
    choose: ChooseConfig
    checkpoints: Callable[[], Sequence[int]]

    def play(self, number: int, history: History) -> RoundRecord:
        """Play round ``number`` (from 1) and return what happened.

        A round in which nobody took part, or too few for a group (``strategy.minimum``), changes
        nothing and is played again, until ``strategy.give_up`` seconds have passed.

        Raises
        ------
        UserError
            Where too few sites are there for too long, or every site refused.
        UnusableState
            Where most sites could not compute with the state that the round before made.
        """
        started = time.monotonic()
        patience = Patience(self.log, self.settings.give_up)
        before = RoundRecord(number)
        for attempt in itertools.count():
            connected = self._wait_for_enough(number, history)
            needed = self.state.keys()  # a task that joins meanwhile is not waited for
            played = self._attempt(number, attempt, connected, needed, history)
            played.record.count_attempt(before)
            before = played.record
            if not played.short:
                break
            text = f"round {number}: {played.short} ({self._missed(before)})"
            if patience.begin().is_over():
                raise UserError(f"{text}; {self._gave_up(number)}")
            patience.remind(f"{text}; it is played again")
            patience.pause(
                attempt,
                self.settings.poll,
                closed=played.is_short_by_hours(self.state, needed, self.settings.minimum),
                interrupted=self._someone_joined,
            )
        record = played.record
        for site in self.roster.take_unauthorized():
            record.unauthorized[str(site.node_id)] = site.reason
        self.delivery.holders.heard_from([*record.participants, *record.refused])
        record.seconds = time.monotonic() - started
        return record

    def _attempt(
        self,
        number: int,
        attempt: int,
        connected: set[int],
        needed: Iterable[str],
        history: History,
    ) -> Attempt:
        """Ask, check and aggregate once; another ``attempt`` asks another share of the sites."""
        played = self._sample(number, attempt, connected)
        expected = self.state.begin_round(
            {member.site: member.report.examples["train"] for member in played.asked},
            {member.site: member.variant for member in played.asked},
            number,
            lambda: examples_by_scope(self.state, self.roster.members.values()),
        )
        played.answers = dict.fromkeys(expected, 0)
        alone = [member.variant for member in played.asked if not member.in_cohort]
        bounds = self.settings.bounds
        judge = RoundJudge[Answer](bounds, held_for(alone, self.state, bounds))
        ask = round_ask(
            *(self.state, self.settings, self.choose, number, played.asked, expected, history),
            checkpoints=self.checkpoints(),
        )
        for recipients, reply in self.dispatch.ask(ask, played.asked, played.record):
            try:
                update = self._checked(reply, recipients, number, expected)
            except Refused as error:
                self._note_refused(played, recipients, error)
                continue
            if recipients.in_cohort:  # a sum, in which no site's own update can be measured
                self._aggregate(played, recipients, update)
                continue
            for each in judge.add(*measured(recipients, update, self.state)):
                self._aggregate(played, *each.item)
        self._close(judge, played)
        record = played.record
        # Of those that were asked: where the others are late, one site cannot undo a round.
        if number > 1 and 2 * len(played.diverged) > len(played.asked):
            raise UnusableState(number, played.diverged)
        if not played.lost and not played.closed:
            stop_if_all_refused(record, self._members_of(connected))
        minimum = self.settings.minimum
        played.short = "nobody took part"
        if record.participants:
            played.short = sampling.too_few(needed, played.answers, minimum)
        if not played.short:
            record.kept, record.notes = self.state.finish_round(played.answers)
            for key, note in record.notes.items():
                self.log(f"round {number}: {key}: {note}")
        for site, why in self.roster.unavailable(self.roster.connected()).items():
            if site not in self.roster.members:  # it could not be asked: it never joined
                record.absent[site] = why
        record.tasks = task_metrics(record.sites)
        return played

    def _sample(self, number: int, attempt: int, connected: set[int]) -> Attempt:
        """Draw the sites of an attempt; note those that are drawn and not connected."""
        chosen = sampling.sample(
            self.roster.by_task(), self.settings.fraction, self.seed, number, attempt
        )
        record = RoundRecord(number, evaluated=self.settings.evaluates(number))
        reasons = self.roster.rejected_reasons()
        for member in chosen:
            if member.node_id not in connected:
                record.absent[member.site] = reasons.get(member.site, sampling.NOT_CONNECTED)
        return Attempt([m for m in chosen if m.node_id in connected], record, {})

    def _checked(
        self, reply: Message, recipients: Recipients, number: int, expected: Mapping[str, int]
    ) -> Update:
        """Return what a site, or a cohort's sites, learned; or raise Refused."""
        partitions, method = self.state.partitions, self.state.method
        within, measured = self.settings.deadline + TTL_MARGIN, self.settings.evaluates(number)
        if recipients.in_cohort:
            members = recipients.members
            return checked_cohort(
                *(reply, members, number, partitions, expected, method, within), measured=measured
            )
        (member,) = recipients.members
        references = self.state.references(member.variant)
        partition, groups = partitions[member.variant], self.state.sent_groups(member.variant)
        return checked_update(
            *(reply, member, number, partition, method, references, within, groups),
            measured=measured,
        )

    def _aggregate(self, played: Attempt, recipients: Recipients, update: Update) -> None:
        """Add what an answer contributes, and note who took part and who did not."""
        record = played.record
        for site, problem in update.problems.items():
            record.refused[site] = str(problem)
            if isinstance(problem, NotNow):
                played.closed.add(site)
        self.state.add(update.contributions)
        record.count_up(update.contributions)
        for key, contribution in update.contributions.items():
            played.answers[key] += len(contribution.sites)
        trained = [member for member in recipients.members if member.site in update.reports]
        for member in trained:
            self.state.downlink.answered(member.site, self.state.scope_keys(member.variant))
        record.took_part([(member, update.reports[member.site]) for member in trained])

    def _close(self, judge: RoundJudge[Answer], played: Attempt) -> None:
        """Aggregate what was held and is accepted; note who is refused, and who counts as less."""
        accepted, refused = judge.close()
        for judged, weights in accepted:
            recipients, update = judged.item
            self._aggregate(played, recipients, update.weighted(judged.site, weights))
            for key, weight in weights.items():
                if weight < judged.examples:
                    played.record.limited[judged.site] = (
                        f"counts as {weight} of its {judged.examples} examples in {key} "
                        f"(strategy.bounds.share={self.settings.bounds.share:g})"
                    )
        record = played.record
        record.refused |= refused
        record.norms = {m: dict(sorted(each.items())) for m, each in sorted(judge.norms.items())}
        for site, why in sorted({**refused, **record.limited, **record.lost}.items()):
            self.log(f"round {record.round}: {site}: {why}")

    def _note_refused(self, played: Attempt, recipients: Recipients, error: Refused) -> None:
        """Note an answer that is not taken, and forget which states its sites know.

        They may have lost them, which is why the answer is wrong: they are sent whole layers next.
        """
        played.record.refused |= dict.fromkeys(recipients.sites, str(error))
        if isinstance(error, NotFinite):
            played.diverged |= dict.fromkeys(recipients.sites, str(error))
        if isinstance(error, NotNow):
            played.closed |= set(recipients.sites)
            return
        forgot = [self.state.downlink.failed(site) for site in recipients.sites]
        played.lost |= any(forgot)

    # -- waiting ---------------------------------------------------------------------------------

    def _wait_for_enough(self, number: int, history: History) -> set[int]:
        """Return who is connected, once that is enough sites for a round.

        Raises
        ------
        UserError
            Where it is not enough within ``strategy.give_up``; names who is missing.
        """
        patience = Patience(self.log, self.settings.give_up).begin()
        waited = delivered = False
        while True:
            connected = self.roster.connected()
            self.dispatch.admission.welcome(connected)
            short = self._shortage(connected)
            if not short:
                if waited:
                    there = len(self._members_of(connected))
                    self.log(f"round {number}: {there} sites are there, it goes on")
                    waited = False
                if not delivered:
                    delivered = True
                    if self._deliver(history):
                        continue  # it took a while: who is connected now?
                return connected
            text = f"round {number}: {short}, missing: {self._unavailable(connected)}"
            if patience.is_over():
                raise UserError(f"{text}; {self._gave_up(number)}")
            patience.remind(text)
            self.dispatch.progress.wait(text, self.roster.unavailable(connected))
            waited = True
            patience.look_again(self.settings.poll)

    def _shortage(self, connected: set[int]) -> str:
        """Return what is missing for a round with those that are connected, or ""."""
        able = sampling.reachable_answers(
            self.roster.by_task(), connected, self.settings.fraction, self.state.scope_keys
        )
        if short := sampling.too_few(self.state.keys(), able, self.settings.minimum):
            return short
        there = len(self._members_of(connected))
        if there < self.settings.min_sites:
            return f"{there} of at least {self.settings.min_sites} sites are there"
        return ""

    def _members_of(self, connected: set[int]) -> set[str]:
        return {m.site for m in self.roster.members.values() if m.node_id in connected}

    def _deliver(self, history: History) -> bool:
        sites = self.roster.members.keys() - self.delivery.holders.silent
        return self.delivery.deliver(sites, history[-1]["refused"] if history else ())

    def _someone_joined(self) -> bool:
        return bool(self.dispatch.admission.welcome(self.roster.connected()))

    def _unavailable(self, connected: set[int]) -> str:
        missing = self.roster.unavailable(connected)
        reasons = [f"{self.roster.described(site)}: {why}" for site, why in missing.items()]
        return "; ".join(reasons) or NEVER_JOINED

    def _missed(self, record: RoundRecord) -> str:
        reasons = [f"{self.roster.described(s)}: {why}" for s, why in record.missed.items()]
        return "; ".join(reasons) or "nobody else was asked"

    def _gave_up(self, number: int) -> str:
        return (
            f"gave up after {self.settings.give_up:g} s (strategy.give_up); what was learned up to "
            f"round {number - 1} is kept: give the same command with resume when they are back"
        )


def measured(
    recipients: Recipients, update: Update, state: ServerState
) -> tuple[Judged[Answer], dict[str, float]]:
    """Return a site's update as it is judged, and its norms."""
    ((site, report),) = update.reports.items()
    norms: dict[str, float] = {}
    for key, contribution in update.contributions.items():
        group, sent = kinds.group_of(key), contribution.tensors
        # Knowledge computed from scratch is no change of what was received.
        if state.method.trains_what_it_received(group):
            norms |= update_norms(key, sent, state.states[key])
        elif state.method.judges_values(group):
            norms |= update_norms(key, sent, {n: torch.zeros_like(t) for n, t in sent.items()})
    scopes = tuple(update.contributions)
    return Judged(site, (recipients, update), report.examples, scopes), norms


def stop_if_all_refused(record: RoundRecord, there: set[str]) -> None:
    """Raise UserError where all sites that are there answered, and no answer could be taken."""
    if record.refused and there <= record.refused.keys():
        lines = [f"  {site}: {reason}" for site, reason in sorted(record.refused.items())]
        raise UserError(
            f"round {record.round}: no site could take part; what was learned up to round "
            f"{record.round - 1} is kept, resume the run when this is mended:\n" + "\n".join(lines)
        )
