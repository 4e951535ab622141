"""One round at a site: prepared, measured, trained, and what stays of it."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from client_app.context import SiteContext
from client_app.feature_cache import Computed, FeatureCache, cached
from client_app.gpu_cache import GpuCache, room_on, to_device
from client_app.numerics import numerics_of
from client_app.store import LocalState, MemoryStore, Store
from fedstrata.protocol.answers import Metrics, RoundReport
from fedstrata.protocol.class_measures import ByClass
from fedstrata.protocol.data_description import CHOICES, CONFUSION, RATES
from fedstrata.protocol.numerics import Numerics
from fedstrata.support.errors import UserError, private
from fedstrata.support.seeds import derive_seed
from models.freezing import split_at
from models.preprocessing import Pictures
from models.training.class_measures import Measured as Outputs
from models.training.data import Split
from models.training.intervals import Interval
from models.training.loop import (
    Diverged,
    FitReport,
    FitSettings,
    schedule_factor,
    seeded,
)
from models.training.losses import TaskLoss
from models.training.metrics import logits_of
from strategies.partitioned_model import PartitionedModel
from strategies.site_round import SiteRound

MEASURED = ("validation", "test")  # the splits on which a model is measured
GPU_CACHE = GpuCache()


@dataclass
class PreparedRound:
    """A round for which everything is loaded: the model, the splits, the random numbers.

    Parameters
    ----------
    context : SiteContext
        The site.
    number : int
        The round.
    site_round : SiteRound
        The method's view of the round.
    splits : mapping of str to Split
        What to measure on.
    started : float
        When the preparation began, of `time.perf_counter`.
    """

    context: SiteContext
    number: int
    site_round: SiteRound
    splits: Mapping[str, Split]
    started: float
    outputs: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)
    train_seconds: float = field(default=0.0, init=False)

    def run(self, *, measure: bool = True) -> RoundReport:
        """Measure the model as received, if it is to be, then train it; return the report.

        What it measures changes nothing that it trains from: the trained bits are the same without.

        Raises
        ------
        Diverged
            Where the training did not stay finite.
        """
        metrics = self.measure() if measure else {}
        self.train()
        return self.report(metrics)

    def measure(self, network: nn.Module | None = None) -> Metrics:
        """Return the metrics of the model as it is now, by split; raise Diverged for a loss of NaN.

        ``network`` is measured instead of the method's predictor.
        """
        context = self.context
        if network is None:
            network = context.method.predictor(self.site_round)
        if network is self.site_round.tail:
            network = self.site_round.compiled or network
        measured: Metrics = {}
        for name, part in self.splits.items():
            outputs = logits_of(
                network,
                part.inputs,
                batch_size=context.evaluation_batch,
                device=context.device,
                autocast=context.autocast,
            )
            measured[name] = context.objective.measure(outputs, torch.from_numpy(part.labels))
            self.outputs[name] = outputs
        if problem := loss_problem(measured):
            raise Diverged(problem)
        return measured

    def interval(self) -> Interval | None:
        """Return how sure the leading measure on the test data is, as last measured."""
        context = self.context
        generator = np.random.default_rng(
            derive_seed(context.plan.seed, "bootstrap", context.data.site)
        )
        labels = torch.from_numpy(self.splits["test"].labels)
        return context.objective.interval(self.outputs["test"], labels, generator)

    def by_class(self) -> ByClass | None:
        """Return the measures of each class as last measured, as far as the site lets them out."""
        context, node = self.context, self.context.node
        said = CHOICES if node.simulated else node.describe
        if RATES not in said and CONFUSION not in said:
            return None
        seed = derive_seed(context.plan.seed, "by class", context.data.site)
        validation, test = (
            Outputs(self.outputs[name], torch.from_numpy(self.splits[name].labels))
            for name in MEASURED
        )
        found = context.objective.by_class(validation, test, np.random.default_rng(seed))
        return found if found is None or CONFUSION in said else found.coarse()

    def train(self) -> None:
        """Train as the method does; raise Diverged where a tensor is not finite afterwards."""
        started = time.perf_counter()
        self.context.method.train(self.site_round)
        self.check_finite()
        self.train_seconds = time.perf_counter() - started

    def check_finite(self) -> None:
        """Raise Diverged where a tensor of the model, or one that the method keeps, is not finite."""
        check_finite({**self.context.partitioned.model.state_dict(), **self.site_round.memory})

    def report(self, metrics: Metrics) -> RoundReport:
        """Return what the site reports of the round."""
        seconds = time.perf_counter() - self.started
        splits = [self.site_round.train, *self.splits.values()]
        numerics = numerics_of(splits, self.context.micro_batches)
        fits = self.site_round.fits
        return round_report(self.context, self.number, fits, metrics, seconds, numerics)

    def local_state(self) -> LocalState:
        """Return what stays at the site after the round."""
        partitioned = self.context.partitioned
        memory = {n: t.detach().cpu().contiguous() for n, t in self.site_round.memory.items()}
        kept = partitioned.tensors(partitioned.partition.kept_names())
        return LocalState(kept, self.site_round.optimizer_state, memory)


def loss_problem(measured: Metrics) -> str:
    """Return which loss of the layers that arrived is no number, or ""."""
    for name, values in measured.items():
        loss = values["loss"]
        if loss is None or not math.isfinite(loss):
            return f"the layers that arrived have the loss {loss} on {name}"
    return ""


def train_round(
    context: SiteContext,
    number: int,
    received: Mapping[str, Tensor],
    store: Store,
    *,
    measure: bool = True,
    best: int = 0,
    durable: Sequence[int] = (),
    last_taken: int = 0,
) -> RoundReport:
    """Prepare a round, run it, and save what stays at the site.

    ``best`` and ``durable`` are those of the order.

    Raises
    ------
    Diverged
        Where the training did not stay finite; nothing is saved then.
    """
    prepared = prepare_round(context, number, received, store, last_taken)
    report = prepared.run(measure=measure)
    store.save(number, prepared.local_state(), best=best, durable=durable)
    return report


def open_site_round(
    context: SiteContext, received: Mapping[str, Tensor]
) -> tuple[RoundReport, dict[str, Tensor]]:
    """Do what the method asks before round 1; return the report, and the tensors exchanged then.

    Raises
    ------
    UserError
        Where the method of the plan asks nothing.
    """
    method = context.method
    if not method.opening():
        raise UserError(f"the server opens a run of method {method.name}, which has no opening")
    prepared = prepare_round(context, 0, received, MemoryStore())
    metrics = prepared.measure()
    method.open(prepared.site_round)
    prepared.check_finite()
    names = [n for g in method.opening() for n in context.partitioned.partition.exchanged_names(g)]
    return prepared.report(metrics), context.partitioned.tensors(names)


def prepare_round(
    context: SiteContext,
    number: int,
    received: Mapping[str, Tensor],
    store: Store,
    last_taken: int = 0,
) -> PreparedRound:
    """Load the site's own layers and those that arrived into the model, and seed the round.

    ``last_taken`` is the round of the site's last update that the server took, 0 for none.

    Raises
    ------
    UserError
        Where the pre-trained checkpoint is missing, or the site's own layers do not fit.
    """
    prepared = loaded_round(context, number, received, store.before(number), last_taken)
    context.method.receive(prepared.site_round)
    # What a method fits to what it received is neither the round's steps nor its loss.
    prepared.site_round.fits.clear()
    return prepared


def loaded_round(
    context: SiteContext,
    number: int,
    received: Mapping[str, Tensor],
    before: LocalState | None,
    last_taken: int = 0,
) -> PreparedRound:
    """Return a round as `prepare_round` does, before the method has seen what was received."""
    started = time.perf_counter()
    partitioned, data, device = context.partitioned, context.data, context.device
    if context.plan.wants_categories:
        raise UserError("the plan has no agreed categories: the server has to ask all sites first")
    if context.plan.wants_sums:
        raise UserError("the plan has no agreed scale: the server has to ask all sites for sums")
    if not context.has_weights:
        raise UserError(
            f"the pre-trained checkpoint {context.plan.weights} is not on this site's disk"
        )
    state = before or LocalState()
    check_state(state, partitioned, data.site)
    # Sites and rounds share one model, so every tensor is loaded, also what seems unchanged.
    partitioned.load(context.start)
    partitioned.load(state.tensors)
    partitioned.load(received)
    to_device(partitioned.model, device)
    # By site and round, so that a round that is sent again, or resumed, is the same to the bit.
    generator = seeded(derive_seed(context.plan.seed, "round", data.site, number))
    tail, splits = _tail_and_splits(context)
    compiled = context.plan.train.compile
    site_round = SiteRound(
        model=partitioned.model,
        network=partitioned.network,
        tail=tail,
        partition=partitioned.partition,
        received={name: tensor.to(device) for name, tensor in received.items()},
        train=splits["train"],
        classes=len(data.classes),
        settings=fit_settings(context, number),
        loss=site_loss(context, splits["train"]),
        generator=generator,
        device=device,
        memory=dict(state.memory),
        optimizer_state=dict(state.optimizer),
        max_steps=context.node.max_steps,
        number=number,
        rounds=context.plan.rounds,
        last_taken=last_taken,
        # Once a process for one structure; it shares the tail's tensors.
        compiled=cast(nn.Module, torch.compile(tail)) if compiled else None,
    )
    if isinstance(data.preprocessing, Pictures):
        site_round.picture_scale = data.preprocessing.mean, data.preprocessing.std
    measured = {name: splits[name] for name in MEASURED}
    return PreparedRound(context, number, site_round, measured, started)


def round_report(
    context: SiteContext,
    number: int,
    fits: Sequence[FitReport],
    metrics: Metrics,
    seconds: float,
    numerics: Numerics,
) -> RoundReport:
    """Return the report of a round with these fits, of which the last one is the loss."""
    return RoundReport(
        site=context.data.site,
        round=number,
        examples=len(context.data.train),
        steps=sum(fit.steps for fit in fits),
        planned=sum(fit.planned for fit in fits),
        loss=fits[-1].loss if fits else 0.0,
        seconds=seconds,
        metrics=metrics,
        error="",
        numerics=numerics,
    )


def exchanged_tensors(context: SiteContext) -> dict[str, Tensor]:
    """Return copies of what the site's model exchanges now, by name."""
    own = context.partitioned.partition
    names = [name for group in own.exchanged_groups() for name in own.exchanged_names(group)]
    return context.partitioned.tensors(names)


def check_finite(tensors: Mapping[str, Tensor]) -> None:
    """Raise Diverged where a tensor is not finite."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise Diverged(f"{name} is not finite after training: lower train.optimizer.lr")


def check_state(state: LocalState, partitioned: PartitionedModel, site: str) -> None:
    """Raise UserError where the layers that the site has saved are not those of the model."""
    own = partitioned.partition
    expected = {name: own.specs[name].shape for name in own.kept_names()}
    found = {name: tuple(tensor.shape) for name, tensor in state.tensors.items()}
    if state.tensors and found != expected:
        names = sorted(n for n in expected.keys() | found.keys() if expected.get(n) != found.get(n))
        raise UserError(
            "the personal layers kept" + private(f" for {site}") + " do not fit the model of this "
            "run: "
            + private(", ".join(names[:3]), "they")
            + " differ; start a new run instead of resuming this one"
        )


def fit_settings(context: SiteContext, number: int) -> FitSettings:
    """Return how to train in a round: as configured, with the schedule's learning rate."""
    config = context.plan.train
    factor = schedule_factor(config.schedule, number, context.plan.rounds)
    return FitSettings(config, factor, context.autocast, context.micro_batches)


def site_loss(context: SiteContext, train: Split) -> TaskLoss:
    """Return what a site minimizes, its class weights included."""
    weights = context.plan.train.class_weights
    return context.objective.loss(train.labels, weights, context.device)


def caches_features(context: SiteContext) -> bool:
    """Return whether the frozen prefix runs once, and its outputs are kept."""
    config = context.plan.train
    if context.method.needs_inputs:
        return False
    # Augmented inputs are new in every step: there is nothing to keep.
    return bool(context.partitioned.cut) and config.cache_features and config.augment == "none"


def features_of(context: SiteContext, prefix: nn.Module) -> dict[str, Split]:
    """Return the site's splits with the outputs of ``prefix`` as inputs, computed once."""
    node = context.node
    dtype = context.plan.train.feature_dtype
    cache = FeatureCache(node.cache_dir / "features", node.cache_gb * 10**9, dtype)
    return {
        name: cached(
            prefix,
            context.loaded.prefix_digest,
            part,
            cache,
            batch_size=context.evaluation_batch,
            device=context.device,
            autocast=context.autocast,
        )
        for name, part in splits_of(context).items()
    }


def splits_of(context: SiteContext) -> dict[str, Split]:
    """Return the site's splits by name."""
    data = context.data
    return {"train": data.train, "validation": data.validation, "test": data.test}


def _tail_and_splits(context: SiteContext) -> tuple[nn.Sequential, dict[str, Split]]:
    """Return what runs in each step, and the splits as it takes them."""
    partitioned = context.partitioned
    if not caches_features(context):
        return partitioned.network, _near(context, splits_of(context))
    prefix, tail = split_at(partitioned.network, partitioned.cut)
    return tail, _near(context, features_of(context, prefix))


def _near(context: SiteContext, splits: dict[str, Split]) -> dict[str, Split]:
    """Return the splits, on a GPU with what fits there in its memory."""
    # Where memory was too short for a whole batch, examples may not take it either.
    if context.device.type != "cuda" or context.micro_batches > 1:
        return splits
    return {
        name: part
        if isinstance(part.inputs, Computed)
        else GPU_CACHE.on_device(part, context.device, room_on(context.device, GPU_CACHE))
        for name, part in splits.items()
    }
