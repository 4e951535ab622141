"""What a site does for each order: report, train, evaluate, train for comparison, fine-tune."""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.metadata import version
from typing import cast

import safetensors.torch
import torch

from client_app.context import (
    CHECKPOINT,
    DataKey,
    SiteContext,
    checkpoint_path,
    open_site,
    reopened_site,
    site_categories,
    site_sums,
)
from client_app.crossing import measure_model, train_to_cross
from client_app.failures import logged_reason, writing
from client_app.lost_layers import (
    has_lost_all,
    keeps_layers,
    noted_loss,
    older_layers,
    require_own_layers,
)
from client_app.memory import within_memory
from client_app.pooled.report import report_in_one_place
from client_app.round import (
    PreparedRound,
    exchanged_tensors,
    open_site_round,
    prepare_round,
    splits_of,
    train_round,
)
from client_app.round_lines import log_round
from client_app.site_model import call_last_best, model_path, write_site_model
from client_app.store import MemoryStore
from fedstrata.protocol import kinds
from fedstrata.protocol.answers import (
    AnyReport,
    DeployReport,
    Metrics,
    SiteReport,
    failure_report,
)
from fedstrata.protocol.codec import forms
from fedstrata.protocol.data_description import (
    CHOICES,
    COUNTS,
    MOST_NOTES,
    RANGE,
    DataDescription,
)
from fedstrata.protocol.forms import describe_form
from fedstrata.protocol.limits import MOST_WORD, one_line
from fedstrata.protocol.orders import BEST, LAST, Order
from fedstrata.protocol.payload import texts_of
from fedstrata.protocol.plan import OF_UPDATES
from fedstrata.protocol.task_kinds import NUMBER
from fedstrata.support.errors import UserError, private
from fedstrata.support.seeds import derive_seed
from models import weights
from models.model_card import DEPLOYED
from models.training.loop import Diverged, planned_steps, seeded
from strategies.method import Method
from strategies.partitioned_model import tuned_groups

logger = logging.getLogger("flwr")
OTHER_DATA = (
    "the data here are not those with which the run was trained: if they overlap, test examples may "
    "have been trained on"
)
Report = AnyReport
Answer = tuple[Report, Mapping[str, bytes]]  # with the payload of each group that leaves the site


def answer_order(kind: str, context: SiteContext, order: Order) -> Answer:
    """Return the answer of one site; where the site fails, a report that says why.

    A site alone answers with it, and so does each site of a cohort.
    """
    try:
        return within_memory(context, lambda smaller: ORDERS[kind](smaller, order))
    except Exception as error:
        reason = failure_reason(context, order.round, error)
        diverged = isinstance(error, Diverged)
        return failure_report(kind, context.data.site, order.round, reason, diverged=diverged), {}


def failure_reason(context: SiteContext, number: int, error: Exception) -> str:
    """Log why round ``number`` failed at a site; return what may leave the site of it."""
    node = context.node
    return logged_reason(error, context.data.site, number, node, simulated=node.simulated)


def query(context: SiteContext, order: Order) -> Answer:
    """Say who the site is; raise UserError where its data are no longer those of this run.

    A run that is measured again may be on other data, and then the site says so. After the rounds
    an order may say that the last model is the best one.
    """
    if order.keep == BEST:
        call_last_best(context)
    context.store.check_model(context.plan.own)
    if context.plan.rounds:
        context.store.check_data(context.data.digest)
    elif context.store.has_other_data(context.data.digest):
        logger.warning("site %s: %s", context.data.site, OTHER_DATA)
        noted = replace(context.data, notes=(*context.data.notes, OTHER_DATA))
        context = replace(context, data=noted) if context.node.simulated else context
    return site_report(context), {}


def receive_weights(context: SiteContext, order: Order) -> Answer:
    """Save the pre-trained checkpoint that the server sends to a site that lacks it."""
    save_checkpoint(context, order.payloads)
    return site_report(reopened_site(context)), {}


def add_up(context: SiteContext, order: Order) -> Answer:
    """Answer with sums over the training rows, from which all sites get one scale."""
    del order
    if not context.plan.wants_sums:
        raise UserError("the server asks for sums that the plan has no use for")
    return site_sums(DataKey.of(context.plan), context.node), {}


def name_categories(context: SiteContext, order: Order) -> Answer:
    """Answer with the categories of the site's columns, from which all sites get the same ones."""
    del order
    if not context.plan.wants_categories:
        raise UserError("the server asks for categories that the plan has no use for")
    return site_categories(DataKey.of(context.plan), context.node), {}


def train(context: SiteContext, order: Order) -> Answer:
    """Train one round from what was received; answer with the exchanged groups.

    What stays at the site is on its disk before this returns: an update whose local state was
    lost could not be repeated. ``order.taken`` says of which round the server took the last
    update, by group. What coding lost of that one goes with this one.
    """
    if not context.plan.rounds:
        raise UserError("the server asks for a round of a plan that has none")
    received = context.exchange.read(order.payloads, order.coded)
    feedback = context.exchange.error_feedback(order.taken)
    last = order.last.get(context.data.site, 0)
    older = older_layers(context.store, order.round, last)
    prepared = prepare_round(context, order.round, received.tensors, context.store, last)
    report = prepared.run(measure=order.measure)
    if keeps_layers(context) or prepared.site_round.memory:
        report = noted_loss(context, report, last, older)
    tensors = exchanged_tensors(context)
    context.store.note_data(context.data.digest)
    context.store.note_model(context.plan.own)
    # Saved with the round: the next update carries it if the server takes this one.
    groups = context.method.sent_groups(context.partitioned.partition)
    update, feedback = context.exchange.write(
        tensors, received.tensors, feedback, groups, order.round
    )
    report = replace(report, owed=context.exchange.owed(received.tensors, feedback))
    state = replace(
        prepared.local_state(),
        error_feedback=feedback,
        received=received.known_states,
        hashes=received.hashes,
    )
    context.store.save(order.round, state, order.taken.values(), order.best, order.durable)
    log_round(context, report, prepared.train_seconds, update)
    return report, update


def open_run(context: SiteContext, order: Order) -> Answer:
    """Answer with what the method asks of all sites before round 1; nothing else is kept of it."""
    received = context.exchange.read(order.payloads, order.coded)
    report, tensors = open_site_round(context, received.tensors)
    update, _ = context.exchange.write(
        tensors, received.tensors, {}, context.method.opening(), order.round
    )
    return report, update


def evaluate_received(context: SiteContext, order: Order) -> Answer:
    """Answer with all measures of the received layers and the site's own; train nothing.

    Where the order says so, the whole model is written, to `model_path`.
    """
    started = time.perf_counter()
    if order.of and context.plan.cross_site != OF_UPDATES:
        return measure_model(context, order), {}
    received = context.exchange.read(order.payloads, order.coded)
    if order.best:  # a state of before: with layers of another round it would be another model
        context.store.require(order.round, lost=_has_lost(context, order))
    require_own_layers(context, order.round, order.last.get(context.data.site, 0))
    prepared = prepare_round(context, order.round, received.tensors, context.store)
    measured = prepared.measure()
    report = prepared.report(measured)
    if not order.of:  # of another site's layers no more leaves than the table has
        report = replace(report, interval=prepared.interval(), by_class=prepared.by_class())
    if order.keep:
        _keep_model(prepared, order, measured)
    return replace(report, seconds=time.perf_counter() - started), {}


def train_alone(context: SiteContext, order: Order) -> Answer:
    """Train the plan's rounds with nothing exchanged; answer with the metrics of the result.

    It is method ``local`` round by round, with the seeds, steps and schedule of the federation,
    in as many rounds as a site is asked in on average; of a run that stopped early, up to the round
    that the order's ``state`` names. Nothing is written to disk and no tensor leaves.
    """
    started = time.perf_counter()
    no_tuning = replace(context.plan.tuning, epochs=0)  # of groups that `local` may not have
    plan = replace(context.plan, method={"name": "local"}, tuning=no_tuning)
    alone = open_site(context.node, plan, context.data)
    alone = replace(alone, micro_batches=context.micro_batches)
    store = MemoryStore()
    for number in plan.rounds_of_a_site(order.state):
        train_round(alone, number, {}, store, measure=False)
    prepared = prepare_round(alone, plan.rounds + 1, {}, store)
    report = prepared.report(prepared.measure())
    return replace(report, seconds=time.perf_counter() - started), {}


def train_in_one_place(context: SiteContext, order: Order) -> Answer:
    """Answer with metrics of the model that is trained on the data of all sites of a simulation."""
    return report_in_one_place(context, order.round, order.state), {}


def deploy(context: SiteContext, order: Order) -> Answer:
    """Fine-tune the plan's groups of the final model by the site alone; measure before and after.

    It starts from the received layers and the site's own personal ones. A site that took part in
    no round has those of the run's start. The optimizer starts afresh. The whole model that comes
    out is written to :attr:`DiskStore.deployed`, with its card; the files of the rounds stay as they are.

    Raises
    ------
    Diverged
        Where the fine-tuning did not stay finite; nothing is written then.
    """
    started = time.perf_counter()
    plan, tuning = context.plan, context.plan.tuning
    require_own_layers(context, order.round, order.last.get(context.data.site, 0))
    received = context.exchange.read(order.payloads, order.coded)
    prepared = prepare_round(context, order.round, received.tensors, context.store)
    before = after = prepared.measure()
    before_by_class = after_by_class = prepared.by_class()
    site_round = prepared.site_round
    groups = tuned_groups(context.partitioned.partition, tuning.groups)
    tuned = site_round.trainable(groups)
    if tuned:
        site_round.generator = seeded(derive_seed(plan.seed, "deploy", context.data.site))
        # A constant rate: the schedule's factor of the last round would be all but 0.
        site_round.settings = replace(site_round.settings, lr_factor=tuning.lr_factor)
        site_round.optimizer_state = {}
        context.method.fine_tune(site_round, groups, tuning.epochs)
        prepared.check_finite()
        after, after_by_class = prepared.measure(), prepared.by_class()
    write_site_model(
        context,
        DEPLOYED,
        order.state,
        site_round=site_round,
        metrics={"before": before, "after": after},
        tuned=tuned,
    )
    done = prepared.report(after)
    report = DeployReport(
        site=done.site,
        round=done.round,
        examples=done.examples,
        tuned=len(tuned),
        steps=done.steps,
        planned=done.planned,
        loss=done.loss,
        seconds=time.perf_counter() - started,
        before=before,
        after=after,
        error="",
        numerics=done.numerics,
        before_by_class=before_by_class,
        after_by_class=after_by_class,
    )
    return report, {}


ORDERS: Mapping[str, Callable[[SiteContext, Order], Answer]] = {
    kinds.QUERY: query,
    kinds.WEIGHTS: receive_weights,
    kinds.CATEGORIES: name_categories,
    kinds.SUMS: add_up,
    kinds.OPEN: open_run,
    kinds.TRAIN: train,
    kinds.ALONE: train_alone,
    kinds.POOLED: train_in_one_place,
    kinds.DEPLOY: deploy,
    kinds.CROSS: train_to_cross,
    kinds.EVALUATE: evaluate_received,
}


def _keep_model(prepared: PreparedRound, order: Order, measured: Metrics) -> None:
    """Write the whole model that was measured; a full disk costs the file, and not the measures."""
    context, site_round = prepared.context, prepared.site_round
    try:
        if order.keep == LAST:  # a best one of before is of another end of the run
            model_path(context.store, BEST).unlink(missing_ok=True)
        stages = {order.keep: measured}
        write_site_model(context, order.keep, order.state, site_round=site_round, metrics=stages)
    except (OSError, UserError) as error:
        logger.error(
            "site %s: its %s model is not written: %s", context.data.site, order.keep, error
        )


def _has_lost(context: SiteContext, order: Order) -> bool:
    """Return whether layers that are not there are lost: the site trained in a run of before."""
    trained = context.data.site not in order.fresh
    return trained and not context.plan.rounds and has_lost_all(context, context.store)


def save_checkpoint(context: SiteContext, payloads: Mapping[str, bytes]) -> None:
    """Put a checkpoint that the server sent into the cache, if it is what its hash says."""
    wanted = context.plan.weights
    try:
        tensors = safetensors.torch.load(payloads["pretrained"])
    except (KeyError, safetensors.SafetensorError) as error:
        message = "the checkpoint that arrived cannot be read" + private(f": {error}")
        raise UserError(message) from None
    found = weights.content_hash(tensors)
    if found != wanted:
        raise UserError(f"the checkpoint that arrived has the hash {found}, not {wanted}")
    with writing(CHECKPOINT):
        # The server's words, for the card of the site's model.
        texts = texts_of(payloads["pretrained"], ("source", "licence"))
        weights.save(checkpoint_path(context.node.cache_dir, wanted), tensors, texts)


def site_report(context: SiteContext) -> SiteReport:
    """Return who the site is, what data it has and what its model looks like.

    Raises
    ------
    UserError
        Where nothing that the site could train would be taken.
    """
    _check_steps(context)
    data, own = context.data, context.partitioned.partition
    groups = own.exchanged_groups()
    return SiteReport(
        site=data.site,
        task=data.task,
        classes=data.classes,
        input_shape=data.input_shape,
        examples={name: len(part) for name, part in splits_of(context).items()},
        baseline=context.objective.baseline(
            data.train.labels, data.validation.labels, data.test.labels
        ),
        fingerprints={group: own.fingerprint(group) for group in groups},
        schemas={
            group: {name: describe_form(form) for name, form in forms(own.schema(group)).items()}
            for group in groups
        },
        holds_weights=context.has_weights,
        device=str(context.device),
        versions={
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "flwr": version("flwr"),
        },
        error="",
        known_states=context.exchange.known_states(started=context.has_weights),
        data=describe(context),
        kind=data.kind,
        model=context.plan.own,
    )


def describe(context: SiteContext) -> DataDescription | None:
    """Return what the site says of its data: in a simulation all, else what its settings let out."""
    data, node = context.data, context.node
    said = CHOICES if node.simulated else node.describe
    by_class = data.counts() if COUNTS in said and data.kind.name != NUMBER else {}
    said_of_it = DataDescription(
        value_range=data.value_range if RANGE in said else None,
        counts=cast("dict[str, dict[str, int]]", by_class),
        source=data.source[:MOST_WORD] if node.simulated else "",
        digest=data.digest if node.simulated else "",
        notes=tuple(map(one_line, data.notes[:MOST_NOTES])),
    )
    return None if said_of_it == DataDescription() else said_of_it


def _check_steps(context: SiteContext) -> None:
    """Raise UserError where the site's own limit of steps has all its rounds refused.

    A site whose rounds are refused can still fine-tune. And how many steps a method with its own
    training takes, only the rounds show.
    """
    plan, most = context.plan, context.node.max_steps
    if most is None or plan.tuning.epochs or type(context.method).train is not Method.train:
        return
    planned = planned_steps(len(context.data.train), plan.train)
    if reason := context.method.reject_reason(min(most, planned), planned):
        raise UserError(
            f"this site's max-steps={most} cuts every round short, and none would be taken "
            f"({reason}): raise max-steps, or shorten the rounds"
        )
