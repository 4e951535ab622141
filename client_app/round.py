"""What a site does when asked: say who it is, train a round, evaluate, train alone, fine-tune."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from client_app.context import SiteContext, checkpoint_path
from client_app.feature_cache import Computed, FeatureCache, cached
from client_app.gpu_cache import GpuCache, room_on
from client_app.store import LocalState, Store
from fedstrata.protocol.answers import RoundReport
from fedstrata.protocol.plan import TrainConfig
from fedstrata.support.errors import UserError, private
from fedstrata.support.seeds import derive_seed
from models.freezing import split_at
from models.training.data import Split
from models.training.loop import (
    Diverged,
    FitSettings,
    Loss,
    WeightedLoss,
    class_weights,
    schedule_factor,
    seeded,
)
from models.training.metrics import evaluate
from strategies.method import Method
from strategies.partitioned_model import PartitionedModel
from strategies.site_round import SiteRound

Done = TypeVar("Done")
SPLITS = ("validation", "test")
GPU_CACHE = GpuCache()


def exchanged_tensors(bench: SiteContext) -> dict[str, Tensor]:
    """Return copies of what the bench's model exchanges now, by name."""
    division = bench.partitioned.partition
    names = [n for group in division.exchanged_groups() for n in division.exchanged_names(group)]
    return bench.partitioned.tensors(names)


def play(
    bench: SiteContext,
    round_number: int,
    received: Mapping[str, Tensor],
    store: Store,
    *,
    measure: bool = True,
) -> RoundReport:
    """Play one round: load, measure the model as received, train it, keep what stays.

    Raises
    ------
    Diverged
        Where the training did not stay finite; nothing is kept then.
    """
    seat, report = trained(bench, round_number, received, store, measure=measure)
    store.save(round_number, local_state(seat, bench))
    return report


def trained(
    bench: SiteContext,
    round_number: int,
    received: Mapping[str, Tensor],
    store: Store,
    *,
    measure: bool = True,
) -> tuple[Prepared, RoundReport]:
    """Play one round as `play` does, but keep nothing yet."""
    started = time.perf_counter()
    seat = set_up(bench, round_number, received, store)
    metrics = measured(bench, seat) if measure else {}
    seat.train_round()
    check_finite(bench.partitioned)
    return seat, round_report(bench, round_number, started, metrics, seat)


def local_state(seat: Prepared, bench: SiteContext) -> LocalState:
    """Return what stays at the site of a round that was played."""
    memory = {n: t.detach().cpu().contiguous() for n, t in seat.site_round.memory.items()}
    kept = bench.partitioned.tensors(bench.partitioned.partition.kept_names())
    return LocalState(kept, seat.site_round.optimizer_state, memory)


def check_finite(partitioned: PartitionedModel) -> None:
    """Raise Diverged where a tensor of the model is not finite."""
    for name, tensor in partitioned.model.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise Diverged(f"{name} is not finite after training: lower train.optimizer.lr")


@dataclass
class Prepared:
    """A round set up: the method's view of it, and the splits to measure on."""

    site_round: SiteRound
    method: Method
    measured: Mapping[str, Split]

    def train_round(self) -> None:
        """Train, as the method does."""
        self.method.train(self.site_round)


def set_up(
    bench: SiteContext, round_number: int, received: Mapping[str, Tensor], store: Store
) -> Prepared:
    """Load what the site kept and what arrived into the model, and seed the round.

    Raises
    ------
    UserError
        Where the pre-trained checkpoint is not there, or what was kept does not fit.
    """
    partitioned, data, device = bench.partitioned, bench.data, bench.device
    if (
        bench.plan.weights
        and not checkpoint_path(bench.site.cache_dir, bench.plan.weights).exists()
    ):
        raise UserError(
            f"the pre-trained checkpoint {bench.plan.weights} is not on this site's disk"
        )
    kept = store.before(round_number) or LocalState()
    check_kept(kept, partitioned, bench.data.site)
    partitioned.load(bench.start)
    partitioned.load(kept.tensors)
    partitioned.load(received)
    to_device(partitioned.model, device)
    generator = seeded(derive_seed(bench.plan.seed, "round", bench.data.site, round_number))
    tail, splits = _frozen_once(bench)
    site_round = SiteRound(
        model=partitioned.model,
        network=partitioned.network,
        tail=tail,
        partition=partitioned.partition,
        received={name: tensor.to(device) for name, tensor in received.items()},
        train=splits["train"],
        classes=len(data.classes),
        settings=fit_settings(bench, round_number),
        loss=site_loss(bench.plan.train, splits["train"], len(data.classes), device),
        generator=generator,
        device=device,
        memory=dict(kept.memory),
        optimizer_state=dict(kept.optimizer),
        max_steps=bench.site.max_steps,
    )
    measured = {name: splits[name] for name in SPLITS}
    return Prepared(site_round, bench.method, measured)


def to_device(model: nn.Module, device: torch.device) -> None:
    """Put the model on the device; on CUDA with channels last, as its convolutions are fastest."""
    if device.type == "cuda":
        model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    else:
        model.to(device)


def caches_features(bench: SiteContext) -> bool:
    """Return whether the frozen prefix runs once, and its outputs are kept."""
    config = bench.plan.train
    return bool(bench.partitioned.cut) and config.cache_features and config.augment == "none"


def _frozen_once(bench: SiteContext) -> tuple[nn.Module, dict[str, Split]]:
    """Return what is left to run each step, over the outputs of the frozen prefix where cached."""
    data, cut = bench.data, bench.partitioned.cut
    if not caches_features(bench):
        splits = {"train": data.train, "validation": data.validation, "test": data.test}
        return _compiled(bench, bench.partitioned.network), _near(bench, splits)
    prefix, tail = split_at(bench.partitioned.network, cut)
    return _compiled(bench, tail), _near(bench, features_of(bench, prefix))


def _compiled(bench: SiteContext, network: nn.Module) -> nn.Module:
    """Return the network to run, compiled where that is configured; it shares its tensors."""
    if not bench.plan.train.compile:
        return network
    return cast(nn.Module, torch.compile(network))  # once a process for one structure


def _near(bench: SiteContext, splits: dict[str, Split]) -> dict[str, Split]:
    """Return the splits, on a GPU with what fits there in its memory."""
    if bench.device.type != "cuda" or bench.micro_batches > 1:
        return splits
    return {
        name: part
        if isinstance(part.inputs, Computed)
        else GPU_CACHE.on_device(part, bench.device, room_on(bench.device, GPU_CACHE))
        for name, part in splits.items()
    }


def features_of(bench: SiteContext, prefix: nn.Module) -> dict[str, Split]:
    """Return the site's splits with the outputs of ``prefix`` as inputs, computed once."""
    data = bench.data
    splits = {"train": data.train, "validation": data.validation, "test": data.test}
    site = bench.site
    cache = FeatureCache(
        site.cache_dir / "features", site.cache_gb * 10**9, bench.plan.train.feature_dtype
    )
    return {
        name: cached(
            prefix,
            bench.loaded.prefix_digest,
            part,
            cache,
            batch_size=bench.evaluation_batch,
            device=bench.device,
            autocast=bench.autocast,
        )
        for name, part in splits.items()
    }


def measured(bench: SiteContext, seat: Prepared) -> dict[str, dict[str, float | None]]:
    """Return the metrics of the model as it is now, by split."""
    network = seat.method.predictor(seat.site_round)
    return {
        name: evaluate(
            network,
            part,
            classes=len(bench.data.classes),
            batch_size=bench.evaluation_batch,
            device=bench.device,
            autocast=bench.autocast,
        )
        for name, part in seat.measured.items()
    }


def round_report(
    bench: SiteContext,
    round_number: int,
    started: float,
    metrics: dict[str, dict[str, float | None]],
    seat: Prepared,
) -> RoundReport:
    """Return what the site reports of a round that was prepared as ``seat``."""
    fits = seat.site_round.fits
    return RoundReport(
        site=bench.data.site,
        round=round_number,
        examples=len(bench.data.train),
        steps=sum(fit.steps for fit in fits),
        planned=sum(fit.planned for fit in fits),
        loss=fits[-1].loss if fits else 0.0,
        seconds=time.perf_counter() - started,
        metrics=metrics,
        error="",
    )


def fit_settings(bench: SiteContext, round_number: int) -> FitSettings:
    """Return how to train in a round: the configured settings with the schedule's learning rate."""
    config = bench.plan.train
    factor = schedule_factor(config.schedule, round_number, bench.plan.rounds)
    return FitSettings(config, factor, bench.autocast, bench.micro_batches)


def site_loss(config: TrainConfig, train: Split, classes: int, device: torch.device) -> Loss:
    """Return what a site minimises, its class weights included."""
    if config.class_weights == "none":
        return functional.cross_entropy
    return WeightedLoss(class_weights(train.labels, classes).to(device))


def check_kept(kept: LocalState, partitioned: PartitionedModel, site: str) -> None:
    """Raise UserError where what the site kept is not of the model."""
    own = partitioned.partition
    expected = {name: own.specs[name].shape for name in own.kept_names()}
    found = {name: tuple(tensor.shape) for name, tensor in kept.tensors.items()}
    if kept.tensors and found != expected:
        names = sorted(n for n in expected.keys() | found.keys() if expected.get(n) != found.get(n))
        raise UserError(
            "the personal layers kept" + private(f" for {site}") + " do not fit the model of this "
            "run: "
            + private(", ".join(names[:3]), "they")
            + " differ; start a new run instead of resuming this one"
        )
