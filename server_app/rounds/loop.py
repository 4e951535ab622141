"""The round loop: ask, check, aggregate as it arrives, and go on with whoever is there."""

from __future__ import annotations

import itertools
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flwr.app import Array, Message
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

from fedstrata.protocol import kinds, orders
from fedstrata.protocol.kinds import group_of
from fedstrata.protocol.limits import NotNow, Refused
from fedstrata.protocol.orders import Coded
from fedstrata.protocol.payload import encode
from fedstrata.support.errors import UserError
from fedstrata.support.seeds import derive_seed
from server_app.inbox import MOST_BESIDES, Inbox, collect, reply_problem, send
from server_app.patience import LONGEST_CLOSED, LONGEST_PAUSE, LOOK, Reminder
from server_app.rounds.checks import checked_cohort, checked_update
from server_app.rounds.contribution import CohortUpdate, Contribution
from server_app.rounds.dispatch import MOST_TIMES, TTL_MARGIN, Recipients, letters_of, recipients_of
from server_app.rounds.records import RoundRecord, task_metrics
from server_app.rounds.state import ServerState
from server_app.sites.members import Member
from server_app.sites.roster import Roster
from strategies.config import StrategyConfig

Log = Callable[[str], None]


NEVER_JOINED = "sites that never joined; strategy.fraction may ask too few of those that did"


@dataclass
class Rounds:
    """Plays rounds over a grid.

    Parameters
    ----------
    grid : Grid
        Flower's way to the nodes.
    roster : Roster
        Who takes part.
    server_state : ServerState
        The states; replaced group by group as rounds end.
    settings : StrategyConfig
        Fraction, deadline, minimum and so on.
    seed : int
        The run's seed; who is asked in a round follows from it and the round's number.
    admit : callable
        Takes in members that joined or came back while rounds are played; waits for none.
    serve : callable
        Gives the sites that are there what they lack, before a round asks them; may wait. Returns
        whether there were any.
    log : callable
        Takes one line.
    history : list of dict
        The records of the rounds that are complete, in order; whoever plays a round appends it.
    """

    grid: Grid
    roster: Roster
    server_state: ServerState
    settings: StrategyConfig
    seed: int
    admit: Callable[[list[Member]], None]
    serve: Callable[[], bool]
    log: Log
    history: list[dict[str, Any]] = field(default_factory=list)

    def play(self, number: int) -> RoundRecord:
        """Play round ``number`` (from 1) and return what happened.

        A round in which nobody took part, or too few for a group (``strategy.minimum``), changes
        nothing and is played again, until ``strategy.give_up`` seconds have passed.

        Raises
        ------
        UserError
            Where too few sites are there for too long, or every site refused.
        """
        started = time.monotonic()
        remind, give_up = Reminder(self.log), math.inf
        before = RoundRecord(number)
        for attempt in itertools.count():
            record, short, closed = self._attempt(number, attempt)
            record.moved_too(before)
            before = record
            if not short:
                break
            give_up = min(give_up, time.monotonic() + self.settings.give_up)
            missing = {**record.refused, **record.late, **record.absent}
            told = "; ".join(f"{self.roster.described(s)}: {why}" for s, why in missing.items())
            text = f"round {number}: {short} ({told or 'nobody else was asked'})"
            if time.monotonic() >= give_up:
                raise UserError(f"{text}; {self._gave_up(number)}")
            remind(f"{text}; it is played again")
            self.pause(attempt, give_up, closed=closed)
        for rejected_site in self.roster.take_unauthorized():
            record.unauthorized[str(rejected_site.node_id)] = rejected_site.reason
        record.seconds = time.monotonic() - started
        return record

    def pause(self, attempt: int, until: float, *, closed: bool) -> None:
        """Wait before sites are asked again, each time for longer; a site that joins ends it.

        Parameters
        ----------
        attempt : int
            How often they were asked before the last time.
        until : float
            When waiting ends at the latest, in monotonic seconds.
        closed : bool
            Whether all that is missing is outside its own hours: then nothing is gained by asking
            soon, and who could train would do so in vain.
        """
        longest = LONGEST_CLOSED if closed else LONGEST_PAUSE
        wait = min(longest, self.settings.poll * 2 ** min(attempt, 16))
        until = min(until, time.monotonic() + wait)
        while (left := until - time.monotonic()) > 0:
            time.sleep(min(left, LOOK))
            if left > LOOK and self._welcome(self.roster.connected()):
                return

    def _attempt(self, number: int, attempt: int) -> tuple[RoundRecord, str, bool]:
        """Ask, check and aggregate once; another ``attempt`` asks another share of the sites.

        Also returns what was too few for a round; where that is not "", nothing has changed. And
        whether it would be too few if all answered that are not outside their hours.
        """
        connected = self._wait_for_enough(number)
        needed = self.server_state.keys()  # a task that joins meanwhile is not waited for
        asked, record = self._sample(number, attempt, connected)
        counts = {member.site: member.report.examples["train"] for member in asked}
        expected = self._begin(asked, counts)
        arrived = dict.fromkeys(expected, 0)
        later, closed = False, set[str]()
        for recipients, reply in self._ask(
            kinds.TRAIN, asked, number, record, self.settings.deadline, expected=expected
        ):
            try:
                update = self._checked(reply, recipients, number, expected)
            except Refused as error:
                record.refused |= {member.site: str(error) for member in recipients}
                if isinstance(error, NotNow):
                    closed |= {member.site for member in recipients}
                else:  # who known_states something is sent the whole: once more
                    later |= self._forget(recipients)
                continue
            for site, problem in update.problems.items():
                record.refused[site] = str(problem)
                if isinstance(problem, NotNow):
                    closed.add(site)
            for key, share in update.shares.items():
                self._add(key, share)
                arrived[key] += len(share.sites)
                group = group_of(key)
                record.bytes_up[group] = record.bytes_up.get(group, 0) + share.size
            reports = update.reports
            for member in recipients:
                if member.site in reports:
                    keys = self.server_state.keys_of(member.task)
                    self.server_state.downlink.answered(member.site, keys)
            record.took_part([(m, reports[m.site]) for m in recipients if m.site in reports])
        if not later and not closed:
            self._stop_if_all_refused(record, connected)
        short = self._too_few(needed, arrived) if record.participants else "nobody took part"
        if not short:
            self._finish(arrived, record)
        self._note_the_others(record)
        record.tasks = task_metrics(record.sites)
        open_now = [member for member in asked if member.site not in closed]
        could = Counter(
            key for member in open_now for key in self.server_state.keys_of(member.task).values()
        )
        return record, short, bool(closed and (not open_now or self._too_few(needed, could)))

    def _checked(
        self, reply: Message, recipients: Recipients, number: int, expected: Mapping[str, int]
    ) -> CohortUpdate:
        """Return what one site, or a cohort's sites, learned; or raise Refused."""
        partitions, method = self.server_state.partitions, self.server_state.method
        if recipients[0].in_cohort:
            return checked_cohort(reply, recipients, number, partitions, expected, method)
        (member,) = recipients
        sent = self.server_state.sent(member.task)
        update = checked_update(reply, member, number, partitions[member.task], method, sent)
        keys, examples = self.server_state.keys_of(member.task), update.report.examples
        shares = {
            keys[group]: Contribution({member.site: examples}, tensors, update.sizes[group])
            for group, tensors in update.tensors.items()
        }
        return CohortUpdate({member.site: update.report}, {}, shares)

    def _forget(self, recipients: Recipients) -> bool:
        """Take it that sites whose answer is wrong hold nothing: they are sent the whole next time.

        Return whether one was known to hold something.
        """
        forgot = [self.server_state.downlink.failed(member.site) for member in recipients]
        return any(forgot)

    def _add(self, key: str, share: Contribution) -> None:
        """Give what arrived to its aggregator: one site's update, or the sum over several."""
        if len(share.sites) > 1:
            self.server_state.aggregators[key].add_sum(share.sites, share.tensors)
            return
        ((site, examples),) = share.sites.items()
        self.server_state.aggregators[key].add(site, share.tensors, examples)

    def _note_the_others(self, record: RoundRecord) -> None:
        """Note the sites that could not be asked at all: they never joined, or cannot take part."""
        for site, why in self.roster.unavailable(self.roster.connected()).items():
            if site not in self.roster.members:
                record.absent[site] = why

    def _stop_if_all_refused(self, record: RoundRecord, connected: set[int]) -> None:
        """Raise UserError where all sites that are there answered, and no answer could be taken."""
        there = {m.site for m in self.roster.members.values() if m.node_id in connected}
        if record.refused and there <= record.refused.keys():
            lines = [f"  {site}: {reason}" for site, reason in sorted(record.refused.items())]
            raise UserError(
                f"round {record.round}: no site could take part; what was learned up to round "
                f"{record.round - 1} is kept, resume the run when this is mended:\n"
                + "\n".join(lines)
            )

    def ask(
        self,
        kind: str,
        members: Iterable[Member],
        number: int,
        record: RoundRecord,
        seconds: float,
        *,
        layers: Mapping[str, Array] | None = None,
    ) -> Iterator[tuple[Member, Message]]:
        """Send one order to each member, and yield the answers as they arrive, reports alone.

        The order carries ``layers``; when omitted, those of the member's exchanged groups. Who
        does not answer in ``seconds`` is noted in ``record`` as late, who cannot as absent. The
        sites of a cohort share one order and one answer, of which each gets its own part.
        """
        for recipients, reply in self._ask(kind, members, number, record, seconds, layers=layers):
            if not recipients[0].in_cohort:
                yield recipients[0], reply
                continue
            try:
                found = letters_of(recipients, reply)
            except Refused as error:
                record.refused |= {member.site: str(error) for member in recipients}
                continue
            yield from found

    def _ask(
        self,
        kind: str,
        members: Iterable[Member],
        number: int,
        record: RoundRecord,
        seconds: float,
        *,
        layers: Mapping[str, Array] | None = None,
        expected: Mapping[str, int] | None = None,
    ) -> Iterator[tuple[Recipients, Message]]:
        """Do what `ask` does, and yield each answer whole, with all whom it is of."""
        arrays: dict[str, Array] = {}
        pending: dict[str, Recipients] = {}
        deadline = time.monotonic() + seconds
        largest = 0
        for recipients in recipients_of(members):
            sent_layers, coded = layers, dict[str, Coded]()
            if sent_layers is None:
                sent_layers, coded = self._layers(recipients, number, arrays)
                largest = max(
                    largest, *(self.server_state.size(member.task) for member in recipients)
                )
            largest = max(largest, sum(len(array.data) for array in sent_layers.values()))
            in_cohort = recipients[0].in_cohort
            message = orders.order(
                kind,
                recipients[0].node_id,
                plan=self.roster.plan,
                round_number=number,
                layers=sent_layers,
                ttl=seconds + TTL_MARGIN,
                members=[member.site for member in recipients] if in_cohort else (),
                expected=expected if in_cohort else None,
                coded=coded,
                taken=self._taken(recipients[0]) if kind == kinds.TRAIN and not in_cohort else None,
            )
            sent = send(self.grid, [message])
            if not sent:
                why = "its node is gone: the message could not be sent"
                record.absent |= {member.site: why for member in recipients}
                continue
            pending[sent[0]] = recipients
            for key, array in sent_layers.items():
                group = group_of(key)
                record.bytes_down[group] = record.bytes_down.get(group, 0) + len(array.data)
            for group in coded:
                record.bytes_down.setdefault(group, 0)
        arrays.clear()

        def idle() -> set[str]:
            return self._gone(pending, record)

        waiting = {message_id: recipients[0].node_id for message_id, recipients in pending.items()}
        inbox = Inbox(self.grid, MOST_BESIDES + MOST_TIMES * largest)
        for message_id, reply in collect(
            inbox, waiting, deadline=deadline, poll=self.settings.poll, idle=idle
        ):
            recipients = pending.pop(message_id)
            if problem := reply_problem(reply):
                unreachable = reply.error.code in (
                    ErrorCode.NODE_UNAVAILABLE,
                    ErrorCode.MESSAGE_UNAVAILABLE,
                    ErrorCode.REPLY_MESSAGE_UNAVAILABLE,
                )
                missed = record.absent if unreachable else record.refused
                missed |= {member.site: problem for member in recipients}
                self._unanswered(kind, recipients)
                continue
            yield recipients, reply
        for recipients in pending.values():
            self._unanswered(kind, recipients)
        for member in itertools.chain.from_iterable(pending.values()):
            if member.site not in record.absent:
                record.late[member.site] = f"no answer within {seconds:g} s"

    def _unanswered(self, kind: str, recipients: Recipients) -> None:
        if kind == kinds.TRAIN:
            for member in recipients:
                self.server_state.downlink.unanswered(member.site)

    def _taken(self, member: Member) -> dict[str, int]:
        """Return of which round the site's last update is that was taken, by group; 0 for none.

        Only for groups in which coding loses something, which the site then owes.
        """
        return {
            group: next(
                (
                    int(record["round"])
                    for record in reversed(self.history)
                    if member.site in record["participants"] and key not in record["kept"]
                ),
                0,
            )
            for group, key in self.server_state.keys_of(member.task).items()
            if self.server_state.codings.from_site(group).lossy
        }

    def _layers(
        self, recipients: Recipients, number: int, arrays: dict[str, Array]
    ) -> tuple[dict[str, Array], dict[str, Coded]]:
        """Return the payload of each group for a site, or of each scope for a cohort's sites.

        Equal ones are made once. Of groups that travel as differences, there are as many payloads
        as steps, and the second mapping says what they are; a cohort has no such groups.
        """
        layers: dict[str, Array] = {}
        coded: dict[str, Coded] = {}
        for task in {member.task: None for member in recipients}:
            for group, key in self.server_state.keys_of(task).items():
                state = self.server_state.states[key]
                if self.server_state.downlink.remembers(group):
                    site = recipients[0].site
                    steps, told = self.server_state.downlink.parcel(site, group, key, number, state)
                    layers |= steps
                    coded[group] = told
                    continue
                if key not in arrays:
                    arrays[key] = kinds.payload_array(encode(state))
                layers[key if recipients[0].in_cohort else group] = arrays[key]
        return layers, coded

    def _sample(
        self, number: int, attempt: int, connected: set[int]
    ) -> tuple[list[Member], RoundRecord]:
        """Choose each task's share of sites, by a seed of the round; note who is not connected."""
        record = RoundRecord(number)
        asked: list[Member] = []
        rejected_reasons = self.roster.rejected_reasons()
        again = [attempt] if attempt else []
        for task, members in self.roster.by_task().items():
            size = self._share(members)
            seed = derive_seed(self.seed, "sample", task, number, *again)
            generator = np.random.default_rng(seed)
            chosen = sorted(generator.permutation(len(members))[:size])
            for member in (members[i] for i in chosen):
                if member.node_id in connected:
                    asked.append(member)
                else:
                    why = rejected_reasons.get(member.site, "not connected when the round began")
                    record.absent[member.site] = why
        return asked, record

    def _share(self, members: Sequence[Member]) -> int:
        """Return how many of a task's sites are asked in a round."""
        return max(1, round(self.settings.fraction * len(members)))

    def _could_answer(self, connected: set[int]) -> dict[str, int]:
        """Return for each scope how many sites a round can ask now."""
        able: dict[str, int] = {}
        for task, members in self.roster.by_task().items():
            there = sum(member.node_id in connected for member in members)
            for key in self.server_state.keys_of(task).values():
                able[key] = able.get(key, 0) + min(there, self._share(members))
        return able

    def _too_few(self, keys: Iterable[str], answers: Mapping[str, int]) -> str:
        """Return which of ``keys`` have fewer than ``strategy.minimum`` answers, or ""."""
        short = []
        for key in keys:
            least = self.settings.minimum.get(group_of(key), 0)
            if answers.get(key, 0) < least:
                short.append(f"group {key!r} has {answers.get(key, 0)} of at least {least} sites")
        return ", ".join(short)

    def _begin(self, asked: list[Member], counts: Mapping[str, int]) -> dict[str, int]:
        """Open the aggregators of every scope that is asked; return each one's examples in all."""
        expected: dict[str, dict[str, int]] = {}
        for member in asked:
            for key in self.server_state.keys_of(member.task).values():
                expected.setdefault(key, {})[member.site] = counts[member.site]
        for key, sites in expected.items():
            self.server_state.aggregators[key].begin(self.server_state.states[key], sites)
        return {key: sum(sites.values()) for key, sites in expected.items()}

    def _finish(self, arrived: Mapping[str, int], record: RoundRecord) -> None:
        """Close the round's aggregators; a group that nobody answered for keeps its state."""
        for key, count in arrived.items():
            if not count:
                record.kept[key] = "no update"
                continue
            aggregator = self.server_state.aggregators[key]
            after = aggregator.finish()
            if after is None:
                record.kept[key] = aggregator.note or "no update"
            else:
                self.server_state.states[key] = after
                if aggregator.note:
                    self.log(f"round {record.round}: {key}: {aggregator.note}")

    def _wait_for_enough(self, number: int) -> set[int]:
        """Return who is connected, once that is enough sites for a round.

        Raises
        ------
        UserError
            Where it is not enough within ``strategy.give_up``; names who is missing.
        """
        give_up = time.monotonic() + self.settings.give_up
        remind, waited, served = Reminder(self.log), False, False
        while True:
            connected = self.roster.connected()
            self._welcome(connected)
            there = sum(m.node_id in connected for m in self.roster.members.values())
            short = self._too_few(self.server_state.keys(), self._could_answer(connected))
            if there >= self.settings.min_sites and not short:
                if waited:
                    self.log(f"round {number}: {there} sites are there, it goes on")
                if not served:
                    served = True
                    if self.serve():
                        continue  # it took a while: who is connected now?
                return connected
            missing = self.roster.unavailable(connected)
            told = [f"{self.roster.described(site)}: {why}" for site, why in missing.items()]
            wanted = short or f"{there} of at least {self.settings.min_sites} sites are there"
            text = f"round {number}: {wanted}, missing: {'; '.join(told) or NEVER_JOINED}"
            if time.monotonic() >= give_up:
                raise UserError(f"{text}; {self._gave_up(number)}")
            remind(text)
            waited = True
            time.sleep(self.settings.poll)

    def _gave_up(self, number: int) -> str:
        return (
            f"gave up after {self.settings.give_up:g} s (strategy.give_up); what was learned up to "
            f"round {number - 1} is kept: give the same command with resume when they are back"
        )

    def _welcome(self, connected: set[int]) -> list[Member]:
        """Take in sites that joined or came back."""
        self.roster.forget_asked(connected)
        members, rejected = self.roster.greet()
        for rejected_site in rejected:
            self.log(str(rejected_site))
        if members:
            self.admit(members)
        return members

    def _gone(self, pending: Mapping[str, Recipients], record: RoundRecord) -> set[str]:
        """Return the messages whose sites cannot answer any more, and note why."""
        connected = self.roster.connected()
        self._welcome(connected)
        gone = set()
        for message_id, recipients in pending.items():
            for member in recipients:
                now = self.roster.everyone.get(member.site)
                if now is not None and now.node_id != member.node_id:
                    record.absent[member.site] = "was started again; what it was doing is lost"
                elif member.node_id not in connected:
                    record.absent[member.site] = "disconnected"
                else:
                    continue
                gone.add(message_id)
        return gone
