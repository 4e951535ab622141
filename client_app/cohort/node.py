"""A node with many virtual sites: a report of each, and what they learned as one sum per scope."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from flwr.app import Message
from torch import Tensor

from client_app.cohort.batched import train_batched
from client_app.cohort.sums import CohortSums
from client_app.context import DataKey, SiteContext, open_site, read_site_data
from client_app.failures import logged_reason
from client_app.lost_layers import keeps_layers, noted_loss, older_layers
from client_app.memory import within_memory
from client_app.node_config import NodeSettings
from client_app.orders import Report, answer_order, failure_reason, save_checkpoint
from client_app.own_model import own_plan
from client_app.round import exchanged_tensors, open_site_round, train_round
from fedstrata.protocol import answers, cohort_answers, kinds
from fedstrata.protocol.answers import RoundReport
from fedstrata.protocol.limits import Refused
from fedstrata.protocol.orders import Order, read_members
from fedstrata.protocol.plan import Plan
from fedstrata.support.durable import reaching_disk_together
from fedstrata.support.errors import UserError
from models.groups import scope_keys
from models.training.data import SiteData

Trained = tuple[SiteContext, RoundReport, Mapping[str, Tensor]]
MOST_NAMED = 10  # virtual sites that a reason names which they share
_COHORTS = 4  # nodes whose sites' data one process keeps: in a simulation it works for them in turn


@dataclass(frozen=True)
class Cohort:
    """A node's sites, opened for a plan.

    Parameters
    ----------
    contexts : dict of str to SiteContext
        By site; those with equal shapes one after the other, for they share one model.
    rejected : dict of str to list of int
        Why sites cannot take part, and which virtual sites these are.
    """

    contexts: dict[str, SiteContext]
    rejected: dict[str, list[int]]

    def chosen(self, members: Sequence[str]) -> list[SiteContext]:
        """Return the contexts of ``members``; UserError for one that is not of this cohort."""
        if unknown := sorted(set(members) - self.contexts.keys()):
            raise UserError(f"the server asks for {', '.join(unknown[:3])}, no site of this node")
        asked = set(members)
        return [context for name, context in self.contexts.items() if name in asked]


def answer_cohort(message: Message, node: NodeSettings, plan: Plan, order: Order) -> Message:
    """Do what ``message`` asks of this node's sites, and answer for each of them.

    Parameters
    ----------
    message : Message
        The order as it arrived.
    node : NodeSettings
        The node's settings; it stands for as many sites as ``plan.cohort`` says.
    plan : Plan
        What the server says of the run.
    order : Order
        What was read of the message: the round, and the layers of each scope.

    Raises
    ------
    UserError
        Where the node is no cohort, or nothing of the order can be done.
    """
    # A site's files of a round are not needed before all sites of the node have answered.
    with reaching_disk_together():
        return _answered(open_cohort(node, plan), message, order)


def _answered(cohort: Cohort, message: Message, order: Order) -> Message:
    kind = message.metadata.message_type
    members, expected = read_members(message)
    if kind == kinds.QUERY and not members:  # the first query: the server knows no names yet
        contexts = list(cohort.contexts.values())
        reports = _each(kind, contexts, order) + _rejected(cohort)
        return cohort_answers.cohort_answer(message, reports, {})
    contexts = cohort.chosen(members)
    if kind in WORK:
        trained, layers = train_cohort(contexts, order, expected, kind)
        return cohort_answers.cohort_answer(message, trained, layers)
    if kind == kinds.WEIGHTS and contexts:  # one file serves all sites of the node
        save_checkpoint(contexts[0], order.payloads)
        kind = kinds.QUERY
    return cohort_answers.cohort_answer(message, _each(kind, contexts, order), {})


def open_cohort(node: NodeSettings, plan: Plan) -> Cohort:
    """Read the data of a node's sites, and load their models; what was read is kept.

    Raises
    ------
    UserError
        For a node that is one site by its own settings.
    """
    if not node.simulated or node.index is None or node.count is None:
        raise UserError(
            f"cohort.sites={plan.cohort.sites} is for simulations, and this node is one site by its "
            "own settings: leave cohort.sites=1"
        )
    size = plan.cohort.sites
    key = DataKey.of(plan)
    known = _known_data(key, node, size)
    rejected: dict[str, list[int]] = {}
    opened: list[tuple[NodeSettings, Plan, SiteData]] = []
    for index in range(node.index * size, (node.index + 1) * size):
        virtual = replace(node, index=index, count=node.count * size)
        try:
            if index not in known:
                known[index] = read_site_data(key, virtual)
            data = known[index]
            opened.append((virtual, own_plan(virtual, plan, data.site), data))
        except Exception as error:
            reason = logged_reason(error, f"number {index}", 0, virtual, simulated=True)
            rejected.setdefault(reason, []).append(index)
    # Sites that share a model come one after the other: each is then opened once.
    opened.sort(key=lambda site: (_shares(site[1], site[2]), site[2].site))
    contexts: dict[str, SiteContext] = {}
    before: SiteContext | None = None
    for virtual, own, data in opened:
        if before is None or _shares(before.plan, before.data) != _shares(own, data):
            before = open_site(virtual, own, data)
        contexts[data.site] = replace(before, node=virtual, data=data)
    return Cohort(contexts, rejected)


def train_cohort(
    contexts: Sequence[SiteContext],
    order: Order,
    expected: Mapping[str, int],
    kind: str = kinds.TRAIN,
) -> tuple[list[RoundReport], dict[str, bytes]]:
    """Train one round at each site; return the reports, and each scope's sum.

    What stays at the sites is on disk before this returns. A site that fails says so in its report
    and is in no sum.
    """
    reports: list[RoundReport] = []
    # Added as sites are done: their updates are not in memory all at once.
    sums: CohortSums | None = None
    for context, report, tensors in WORK[kind](contexts, order):
        sums = sums or CohortSums(expected, context.method)
        if not report.error:
            try:
                if kind == kinds.TRAIN:
                    context.store.note_data(context.data.digest)
                    context.store.note_model(context.plan.own)
                sums.add(context.data.task, report, context.partitioned.partition, tensors)
            except (Refused, UserError) as error:
                report = _failed(context, order, str(error))
        reports.append(report)
    return reports, sums.payloads() if sums else {}


class SharedLayers:
    """The layers of a cohort's order as its sites need them; read once for all that are alike.

    Parameters
    ----------
    payloads : mapping of str to bytes
        By scope key.
    """

    def __init__(self, payloads: Mapping[str, bytes]) -> None:
        self._payloads = payloads
        self._read: dict[tuple[int, str], dict[str, Tensor]] = {}

    def tensors(self, context: SiteContext) -> dict[str, Tensor]:
        """Return the tensors for a site, not to be changed; UserError where they are missing.

        Sites of one model get the same objects of a scope.
        """
        found: dict[str, Tensor] = {}
        for group, key in _keys(context).items():
            if key not in self._payloads:
                raise UserError(f"the server sent nothing of {key!r}, which this site exchanges")
            read = (id(context.partitioned), key)
            if read not in self._read:
                self._read[read] = context.exchange.whole(group, self._payloads[key])
            found |= self._read[read]
        return found

    def by_group(self, context: SiteContext) -> dict[str, bytes]:
        """Return the payload of each group for a site, as far as it is there."""
        keys = _keys(context)
        return {group: self._payloads[key] for group, key in keys.items() if key in self._payloads}


def _each(kind: str, contexts: Sequence[SiteContext], order: Order) -> list[Report]:
    """Return each site's report, as it would answer alone; none of these orders has layers back."""
    layers = SharedLayers(order.payloads)
    reports = []
    for context in contexts:
        own = order._replace(payloads=layers.by_group(context))
        report, _ = answer_order(kind, context, own)
        reports.append(report)
    return reports


def _trained(contexts: Sequence[SiteContext], order: Order) -> Iterator[Trained]:
    """Yield each site's report and what it exchanges, as sites are done."""
    layers = SharedLayers(order.payloads)
    last = {context.data.site: order.last.get(context.data.site, 0) for context in contexts}
    older = {
        context.data.site: older_layers(context.store, order.round, last[context.data.site])
        for context in contexts
    }

    def train(context: SiteContext) -> RoundReport:
        tensors, site = layers.tensors(context), context.data.site
        store = context.store
        report = train_round(
            *(context, order.round, tensors, store),
            measure=order.measure,
            best=order.best,
            durable=order.durable,
            last_taken=last[site],
        )
        keeps = keeps_layers(context) or store.has_kept_memory
        return noted_loss(context, report, last[site], older[site] if keeps else None)

    for alone, batched in train_batched(contexts, order, layers.tensors):
        for context, outcome, tensors in batched:
            if isinstance(outcome, Exception):
                reason = failure_reason(context, order.round, outcome)
                outcome = _failed(context, order, reason)
            elif keeps_layers(context):
                site = context.data.site
                outcome = noted_loss(context, outcome, last[site], older[site])
            yield context, outcome, tensors
        for context in alone:
            try:
                yield context, within_memory(context, train), exchanged_tensors(context)
            except Exception as error:
                reason = failure_reason(context, order.round, error)
                yield context, _failed(context, order, reason), {}


def _opened(contexts: Sequence[SiteContext], order: Order) -> Iterator[Trained]:
    """Yield each site's report and what it sends before round 1, as sites are done."""
    layers = SharedLayers(order.payloads)
    for context in contexts:
        try:
            yield context, *open_site_round(context, layers.tensors(context))
        except Exception as error:
            reason = failure_reason(context, order.round, error)
            yield context, _failed(context, order, reason), {}


def _failed(context: SiteContext, order: Order, reason: str) -> RoundReport:
    report = answers.failure_report(kinds.TRAIN, context.data.site, order.round, reason)
    assert isinstance(report, RoundReport)
    return report


def _rejected(cohort: Cohort) -> list[Report]:
    """Return a report for each reason for which virtual sites cannot take part."""
    reports: list[Report] = []
    for reason, numbers in cohort.rejected.items():
        more = f" and {len(numbers) - MOST_NAMED} more" if len(numbers) > MOST_NAMED else ""
        named = ", ".join(map(str, numbers[:MOST_NAMED]))
        text = f"{reason} (virtual sites {named}{more})"
        reports.append(answers.failure_report(kinds.QUERY, "", 0, text))
    return reports


def _keys(context: SiteContext) -> Mapping[str, str]:
    return scope_keys(context.partitioned.partition, context.data.task)


def _shares(plan: Plan, data: SiteData) -> tuple[str, tuple[int, ...], int]:
    """Return what a site's model depends on: two sites that are equal in it share one."""
    return plan.own, data.input_shape, len(data.classes)


@lru_cache(maxsize=_COHORTS)
def _known_data(key: DataKey, node: NodeSettings, size: int) -> dict[int, SiteData]:
    """Return the data of a node's sites by number, as far as they were read: the caller fills it.

    A site that could not be read is missing, and so it is tried again with the next order.
    """
    del key, node, size
    return {}


# What the sites of a cohort do whose layers are sent as a sum. Layers that cross are each site's own.
WORK: Mapping[str, Callable[[Sequence[SiteContext], Order], Iterator[Trained]]] = {
    kinds.TRAIN: _trained,
    kinds.OPEN: _opened,
}
