"""A node that holds many virtual sites: a report of each, and what they learned as one sum per scope."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from flwr.app import Message
from torch import Tensor

from client_app import context, round
from client_app import orders as site_orders
from client_app.cohort.batched import play_batched
from client_app.cohort.sums import CohortSums
from client_app.context import SiteContext
from client_app.failures import leaving
from client_app.memory import within_memory
from client_app.node_config import Site
from fedstrata.protocol import answers, kinds, orders
from fedstrata.protocol.answers import DeployReport, RoundReport, SiteReport
from fedstrata.protocol.limits import Refused
from fedstrata.protocol.plan import Plan
from fedstrata.support.errors import UserError
from models.groups import scope_keys
from models.training.data import SiteData

logger = logging.getLogger("flwr")
Report = SiteReport | RoundReport | DeployReport
Outcome = tuple[SiteContext, RoundReport, Mapping[str, Tensor]]
MOST_SEATS_TOLD = 10  # sites that a reason names which they share
_COHORTS = 4  # nodes whose sites' data one process keeps: in a simulation it serves them in turn


@dataclass(frozen=True)
class Cohort:
    """A node's sites, ready to work.

    Parameters
    ----------
    benches : dict of str to SiteContext
        By site; those with equal shapes one after the other, for they share one model.
    unfit : dict of str to list of int
        Why sites cannot take part, and which seats they have.
    """

    benches: dict[str, SiteContext]
    unfit: dict[str, list[int]]

    def chosen(self, members: Sequence[str]) -> list[SiteContext]:
        """Return the benches of ``members``; UserError for one that is not of this cohort."""
        if unknown := sorted(set(members) - self.benches.keys()):
            raise UserError(f"the server asks for {', '.join(unknown[:3])}, no site of this node")
        asked = set(members)
        return [bench for name, bench in self.benches.items() if name in asked]


def answer_cohort(
    message: Message, site: Site, plan: Plan, number: int, payloads: Mapping[str, bytes]
) -> Message:
    """Do what ``message`` asks of this node's sites, and answer for each of them.

    Parameters
    ----------
    message : Message
        The order.
    site : Site
        The node's settings; its seat is that of as many sites as ``plan.cohort`` says.
    plan : Plan
        What is server_state.
    number : int
        The round.
    payloads : mapping of str to bytes
        The layers of each scope that the sites need.

    Raises
    ------
    UserError
        Where the node is no cohort, or nothing of the order can be done.
    """
    cohort = open_cohort(site, plan)
    kind = message.metadata.message_type
    members, expected = orders.read_members(message)
    if kind == kinds.QUERY and not members:
        return answers.cohort_answer(
            message, [*map(site_orders.who, cohort.benches.values()), *_unfit(cohort)], {}
        )
    benches = cohort.chosen(members)
    if kind == kinds.TRAIN:
        reports, layers = train(benches, number, payloads, expected)
        return answers.cohort_answer(message, reports, layers)
    if kind == kinds.WEIGHTS and benches:
        site_orders.keep_checkpoint(benches[0], payloads)
    return answers.cohort_answer(
        message, [_one(kind, bench, number, payloads) for bench in benches], {}
    )


def open_cohort(site: Site, plan: Plan) -> Cohort:
    """Read the data of a node's sites, and build their models; what was read is kept.

    Raises
    ------
    UserError
        For a node that is one site by its own settings.
    """
    if not site.simulated or site.index is None or site.count is None:
        raise UserError(
            f"cohort.sites={plan.cohort.sites} is for simulations, and this node is one site by its "
            "own settings: leave cohort.sites=1"
        )
    size = plan.cohort.sites
    shelf = _shelf(context.data_key(plan), plan.seed, site, size)
    unfit: dict[str, list[int]] = {}
    held: list[tuple[Site, SiteData]] = []
    for index in range(site.index * size, (site.index + 1) * size):
        seat = replace(site, index=index, count=site.count * size)
        try:
            if index not in shelf:
                shelf[index] = context.read_data(context.data_key(plan), plan.seed, seat)
            held.append((seat, shelf[index]))
        except Exception as error:
            unfit.setdefault(_reason(error, seat, f"at seat {index}"), []).append(index)
    held.sort(key=lambda pair: (_shapes(pair[1]), pair[1].site))
    benches: dict[str, SiteContext] = {}
    before: SiteContext | None = None
    for seat, data in held:
        if before is None or _shapes(before.data) != _shapes(data):
            before = context.open_site(seat, plan, data)
        benches[data.site] = replace(before, site=seat, data=data)
    return Cohort(benches, unfit)


def train(
    benches: Sequence[SiteContext],
    number: int,
    payloads: Mapping[str, bytes],
    expected: Mapping[str, int],
) -> tuple[list[RoundReport], dict[str, bytes]]:
    """Train one round at each site; return the reports, and each scope's sum.

    What stays at the sites is on disk before this returns. A site that fails says so in its report
    and is in no sum.
    """
    reports: list[RoundReport] = []
    sums: CohortSums | None = None
    for bench, report, tensors in _played(benches, number, payloads):
        sums = sums or CohortSums(expected, bench.method)
        told = report
        if not report.error:
            try:
                sums.add(bench.data.task, report, bench.partitioned.partition, tensors)
            except Refused as error:
                told = _failed(bench, number, str(error))
        reports.append(told)
    return reports, sums.payloads() if sums else {}


def _played(
    benches: Sequence[SiteContext], number: int, payloads: Mapping[str, bytes]
) -> Iterator[Outcome]:
    """Yield each site's report and what it exchanges, as sites are done."""
    received = Received(payloads)

    def play(bench: SiteContext) -> RoundReport:
        return round.play(bench, number, received.at(bench), bench.store)

    for alone, together in play_batched(benches, number, received.at):
        for bench, told, tensors in together:
            if isinstance(told, Exception):
                told = _failed(bench, number, _reason(told, bench.site, bench.data.site))
            yield bench, told, tensors
        for bench in alone:
            try:
                yield bench, within_memory(bench, play), round.exchanged_tensors(bench)
            except Exception as error:
                reason = _reason(error, bench.site, bench.data.site)
                yield bench, _failed(bench, number, reason), {}


class Received:
    """The layers of a cohort's order as its sites need them; read once for all that are alike.

    Parameters
    ----------
    payloads : mapping of str to bytes
        By scope key.
    """

    def __init__(self, payloads: Mapping[str, bytes]) -> None:
        self.payloads_of = payloads
        self._read: dict[tuple[int, str], dict[str, Tensor]] = {}

    def at(self, bench: SiteContext) -> dict[str, Tensor]:
        """Return the tensors for the site of ``bench``, not to be changed; UserError if they lack.

        Sites of one model get the same objects of a scope.
        """
        found: dict[str, Tensor] = {}
        for group, key in scope_keys(bench.partitioned.partition, bench.data.task).items():
            if key not in self.payloads_of:
                raise UserError(f"the server sent nothing of {key!r}, which this site exchanges")
            read = (id(bench.partitioned), key)
            if read not in self._read:
                self._read[read] = bench.exchange.whole(group, self.payloads_of[key])
            found |= self._read[read]
        return found

    def by_group(self, bench: SiteContext) -> dict[str, bytes]:
        """Return the payload of each group for the site of ``bench``, as far as it is there."""
        keys = scope_keys(bench.partitioned.partition, bench.data.task)
        return {
            group: self.payloads_of[key] for group, key in keys.items() if key in self.payloads_of
        }


def _one(kind: str, bench: SiteContext, number: int, payloads: Mapping[str, bytes]) -> Report:
    """Return one site's report for any order but a round's; its reason where it fails."""
    layers = Received(payloads).by_group(bench)
    does: dict[str, Callable[[SiteContext], Report]] = {
        kinds.QUERY: site_orders.who,
        kinds.WEIGHTS: site_orders.who,
        kinds.ALONE: site_orders.train_alone,
        kinds.DEPLOY: lambda smaller: site_orders.deploy(smaller, number, layers),
        kinds.EVALUATE: lambda smaller: site_orders.evaluate_received(smaller, number, layers),
    }
    try:
        return within_memory(bench, does[kind])
    except Exception as error:
        reason = _reason(error, bench.site, bench.data.site)
        return answers.failure_report(kind, bench.data.site, number, reason)


def _failed(bench: SiteContext, number: int, reason: str) -> RoundReport:
    told = answers.failure_report(kinds.TRAIN, bench.data.site, number, reason)
    assert isinstance(told, RoundReport)
    return told


def _reason(error: Exception, site: Site, name: str) -> str:
    """Return what the server is told of ``error``; the log has it in full."""
    if isinstance(error, UserError):
        logger.error("site %s: %s", name, error)
    else:
        logger.error("site %s failed", name, exc_info=error)
    return leaving(error, site, simulated=site.simulated)


def _unfit(cohort: Cohort) -> list[Report]:
    """Return a report for each reason for which sites cannot take part, with their seats."""
    found = []
    for reason, seats in cohort.unfit.items():
        more = f" and {len(seats) - MOST_SEATS_TOLD} more" if len(seats) > MOST_SEATS_TOLD else ""
        told = ", ".join(map(str, seats[:MOST_SEATS_TOLD]))
        found.append(
            answers.failure_report(kinds.QUERY, "", 0, f"{reason} (virtual sites {told}{more})")
        )
    return found


def _shapes(data: SiteData) -> tuple[tuple[int, ...], int]:
    """Return what the site's model hangs on: two sites that are alike in it share one."""
    return data.input_shape, len(data.classes)


@lru_cache(maxsize=_COHORTS)
def _shelf(options: str, seed: int, site: Site, size: int) -> dict[int, SiteData]:
    """Return the data of a cohort's sites by seat, as far as they were read."""
    del options, seed, site, size
    return {}
