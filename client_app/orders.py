"""What a site does for each order: report, train, evaluate, train alone, fine-tune."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from types import MappingProxyType

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from client_app.context import CHECKPOINT, SiteContext, checkpoint_path, open_site
from client_app.failures import writing
from client_app.round import (
    check_finite,
    exchanged_tensors,
    local_state,
    measured,
    play,
    round_report,
    set_up,
    trained,
)
from client_app.store import MemoryStore
from fedstrata.protocol.answers import DeployReport, RoundReport, SiteReport
from fedstrata.protocol.codec import forms
from fedstrata.protocol.codings import describe_form
from fedstrata.protocol.orders import CodedGroup
from fedstrata.support.errors import UserError, private
from fedstrata.support.seeds import derive_seed
from models import weights
from models.training.loop import planned_steps, seeded
from strategies.method import Method
from strategies.site_round import SiteRound

NOTHING_CODED: Mapping[str, CodedGroup] = MappingProxyType({})
NOTHING_TAKEN: Mapping[str, int] = MappingProxyType({})


def keep_checkpoint(bench: SiteContext, payloads: Mapping[str, bytes]) -> None:
    """Put a checkpoint that the server sent into the cache, if it is what its hash says."""
    wanted = bench.plan.weights
    try:
        tensors = safetensors.torch.load(payloads["pretrained"])
    except (KeyError, safetensors.SafetensorError) as error:
        told = "the checkpoint that arrived cannot be read" + private(f": {error}")
        raise UserError(told) from None
    found = weights.content_hash(tensors)
    if found != wanted:
        raise UserError(f"the checkpoint that arrived has the hash {found}, not {wanted}")
    with writing(CHECKPOINT):
        weights.save(checkpoint_path(bench.site.cache_dir, wanted), tensors, {})


def who(bench: SiteContext) -> SiteReport:
    """Say who the site is, what it holds and what its model looks like.

    Raises
    ------
    UserError
        Where nothing that the site could train would be taken.
    """
    _check_steps(bench)
    data, division = bench.data, bench.partitioned.partition
    # of classes that are equally common in training (as with labels_per_class), validation decides
    counts = [
        np.bincount(part.labels, minlength=len(data.classes))
        for part in (data.validation, data.train)
    ]
    commonest = int(np.lexsort(counts)[-1])
    groups = division.exchanged_groups()
    plan = bench.plan
    holds_weights = not plan.weights or checkpoint_path(bench.site.cache_dir, plan.weights).exists()
    return SiteReport(
        site=bench.data.site,
        task=data.task,
        classes=data.classes,
        input_shape=data.input_shape,
        examples={
            "train": len(data.train),
            "validation": len(data.validation),
            "test": len(data.test),
        },
        majority_accuracy=float(np.mean(data.test.labels == commonest)),
        fingerprints={group: division.fingerprint(group) for group in groups},
        schemas={
            group: {
                name: describe_form(form) for name, form in forms(division.schema(group)).items()
            }
            for group in groups
        },
        holds_weights=holds_weights,
        device=str(bench.device),
        versions={
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "flwr": version("flwr"),
        },
        error="",
        known_states=bench.exchange.known_states(started=holds_weights),
    )


def _check_steps(bench: SiteContext) -> None:
    """Raise UserError where the site's own limit of steps has all its rounds refused.

    Where fine-tuning follows, such a site has that; and how much a method with a way of its own to
    train does in a round, only the rounds show.
    """
    most = bench.site.max_steps
    if most is None or bench.plan.tuning.epochs or type(bench.method).train is not Method.train:
        return
    planned = planned_steps(len(bench.data.train), bench.plan.train)
    if reason := bench.method.reject_reason(min(most, planned), planned):
        raise UserError(
            f"this site's max-steps={most} cuts every round short, and none would be taken "
            f"({reason}): raise max-steps, or shorten the rounds"
        )


def train(
    bench: SiteContext,
    round_number: int,
    payloads: Mapping[str, bytes],
    coded: Mapping[str, CodedGroup] = NOTHING_CODED,
    taken: Mapping[str, int] = NOTHING_TAKEN,
) -> tuple[RoundReport, dict[str, bytes]]:
    """Train one round from what was received; return the report and the exchanged groups.

    What stays at the site is on its disk before this returns. ``taken`` is of which round the last
    update is that the server took, by group: what that one owes goes with this one.
    """
    received = bench.exchange.read(payloads, coded)
    error_feedback = bench.exchange.error_feedback(taken)
    seat, report = trained(bench, round_number, received.tensors, bench.store)
    update, left = bench.exchange.write(exchanged_tensors(bench), received.tensors, error_feedback)
    kept = replace(local_state(seat, bench), error_feedback=left)
    kept = replace(kept, received=received.known_states, hashes=received.hashes)
    bench.store.save(round_number, kept, taken.values())
    return report, update


def evaluate_received(
    bench: SiteContext,
    round_number: int,
    payloads: Mapping[str, bytes],
    coded: Mapping[str, CodedGroup] = NOTHING_CODED,
) -> RoundReport:
    """Return the metrics of the received layers together with the site's own; train nothing."""
    started = time.perf_counter()
    received = bench.exchange.read(payloads, coded)
    seat = set_up(bench, round_number, received.tensors, bench.store)
    return round_report(bench, round_number, started, measured(bench, seat), seat)


def train_alone(bench: SiteContext) -> RoundReport:
    """Train the plan's rounds with nothing exchanged; return the metrics of the result.

    It is method ``local``, played round by round, so it has the same seeds, steps and schedule as
    the federation, in as many rounds as a site is asked in on average. Nothing is written to
    disk and no tensor leaves.
    """
    started = time.perf_counter()
    no_tuning = replace(bench.plan.tuning, epochs=0)  # of groups that `local` may not have
    alone_plan = replace(bench.plan, method={"name": "local"}, tuning=no_tuning)
    alone = replace(
        open_site(bench.site, alone_plan, bench.data), micro_batches=bench.micro_batches
    )
    store = MemoryStore()
    for number in bench.plan.rounds_of_a_site():
        play(alone, number, {}, store, measure=False)
    last = bench.plan.rounds + 1
    seat = set_up(alone, last, {}, store)
    return round_report(alone, last, started, measured(alone, seat), seat)


def deploy(
    bench: SiteContext,
    round_number: int,
    payloads: Mapping[str, bytes],
    coded: Mapping[str, CodedGroup] = NOTHING_CODED,
) -> DeployReport:
    """Fine-tune the plan's groups of the final model by the site alone; measure before and after.

    Starts from the received layers and the site's own personal ones; those of a site that took
    part in no round are the run's start. The optimiser starts afresh. The whole model that comes
    out is kept as :attr:`DiskStore.deployed`; the files of the rounds stay as they are.

    Raises
    ------
    Diverged
        Where the fine-tuning did not stay finite; nothing is kept then.
    """
    started = time.perf_counter()
    tuning = bench.plan.tuning
    received = bench.exchange.read(payloads, coded)
    seat = set_up(bench, round_number, received.tensors, bench.store)
    before = measured(bench, seat)
    site_round = seat.site_round
    chosen = site_round.trainable(tuning.groups)
    after = before
    if chosen:
        generator = seeded(derive_seed(bench.plan.seed, "deploy", bench.data.site))
        site_round.generator = generator
        site_round.settings = replace(site_round.settings, lr_factor=tuning.lr_factor)
        site_round.optimizer_state = {}
        bench.method.fine_tune(site_round, tuning.groups, tuning.epochs)
        check_finite(bench.partitioned)
        after = measured(bench, seat)
    _keep_deployed(bench, site_round, chosen)
    done = round_report(bench, round_number, started, after, seat)
    return DeployReport(
        site=done.site,
        round=done.round,
        examples=done.examples,
        tuned=len(chosen),
        steps=done.steps,
        planned=done.planned,
        loss=done.loss,
        seconds=done.seconds,
        before=before,
        after=after,
        error="",
    )


def _keep_deployed(bench: SiteContext, site_round: SiteRound, tuned: Mapping[str, Tensor]) -> None:
    """Write the whole model, and the method's own tensors as ``memory/...``, for the site to use."""
    tensors = bench.partitioned.tensors(list(bench.partitioned.model.state_dict()))
    memory = {f"memory/{name}": tensor for name, tensor in site_round.memory.items()}
    data = bench.data
    told = {"task": data.task, "classes": data.classes, "tuned": list(tuned)}
    bench.store.deploy({**tensors, **memory}, {"model": json.dumps({**bench.plan.model, **told})})
