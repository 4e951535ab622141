"""What a site does when asked: say who it is, train a round, evaluate, train alone, fine-tune."""

from __future__ import annotations

import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar, cast

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional

from client_app.data.registry import load as load_data
from client_app.data.site_info import Holding, Seat
from client_app.exchange import Exchange
from client_app.failures import reading_data, writing
from client_app.feature_cache import Cache, Computed, cached
from client_app.gpu_cache import Shelf, room_on
from client_app.memory import in_pieces
from client_app.node_config import Site, checked_name
from client_app.store import DiskStore, Keepsake, MemoryStore, Store
from fedstrata.protocol.answers import DeployReport, RoundReport, SiteReport
from fedstrata.protocol.codec import forms
from fedstrata.protocol.codings import described
from fedstrata.protocol.orders import Coded
from fedstrata.protocol.plan import Plan, TrainConfig, plan_from_json
from fedstrata.support.errors import UserError, private, private_reason
from fedstrata.support.seeds import derive_seed
from models import weights
from models.freezing import prefix_digest, split
from models.networks import input_dtype
from models.training.data import Split
from models.training.loop import (
    Diverged,
    Loss,
    Settings,
    WeightedLoss,
    class_weights,
    planned_steps,
    schedule_factor,
    seeded,
)
from models.training.metrics import evaluate
from strategies.method import Method
from strategies.methods import make_method
from strategies.partitioned_model import Blueprint, draw_up
from strategies.site_round import SiteRound, settings_of

Done = TypeVar("Done")
SPLITS = ("validation", "test")
# What one process keeps open: models, and sites' data. A simulation asks its sites again every
# round, and what is not kept is read or drawn anew for every message. The cost is memory in each
# worker process: drawn faces as configured take 4 MB a site, 0.5 GB for 128; folders of pictures
# at most memory_mb a site, and all shares of a folder together no more than the folder once.
_BLUEPRINTS, _HOLDINGS = 2, 128
_OWN: dict[Site, tuple[tuple[str, str, int], Holding]] = {}  # of the last run, by deployed site
_SHELF = Shelf()
_CHECKPOINT = "the pre-trained checkpoint"
NOTHING_CODED: Mapping[str, Coded] = MappingProxyType({})
NOTHING_TAKEN: Mapping[str, int] = MappingProxyType({})


@dataclass(frozen=True)
class Opened:
    """A plan's model as a process keeps it, and copies of the tensors that every round starts from."""

    blueprint: Blueprint
    start: Mapping[str, Tensor]

    @cached_property
    def prefix_digest(self) -> str:
        """The SHA-256 of the frozen prefix; every round begins with it as it is in ``start``."""
        return prefix_digest(self.blueprint.network, self.blueprint.cut)


@dataclass(frozen=True)
class Bench:
    """A site at work: who it is, what it holds, and the model of the plan.

    ``pieces`` is into how many pieces a batch is cut to go through the device.
    """

    site: Site
    plan: Plan
    holding: Holding
    method: Method
    opened: Opened
    device: torch.device
    pieces: int = 1

    @property
    def blueprint(self) -> Blueprint:
        """The plan's model, which all benches of it share."""
        return self.opened.blueprint

    @property
    def start(self) -> Mapping[str, Tensor]:
        """What every round starts from."""
        return self.opened.start

    @property
    def evaluation_batch(self) -> int:
        """How many examples are evaluated at once; where memory was short, as many as in a piece."""
        config = self.plan.train
        if self.pieces == 1:
            return config.evaluation_batch_size
        return max(min(config.evaluation_batch_size, config.batch_size) // self.pieces, 1)

    @property
    def autocast(self) -> bool:
        """Whether to compute in bfloat16."""
        wanted = self.plan.train.precision
        return wanted == "bfloat16" or (wanted == "auto" and self.device.type == "cuda")

    @property
    def store(self) -> DiskStore:
        """Where this site's personal layers of this federation are."""
        return DiskStore(self.site.state_dir, self.plan.federation, self.holding.site)

    @property
    def exchange(self) -> Exchange:
        """How layers reach this site and leave it."""
        return Exchange(self.blueprint.partition, self.plan.codings, self.start, self.store)


def open_bench(site: Site, plan: Plan, holding: Holding | None = None) -> Bench:
    """Load the site's data and build the plan's model; raise UserError where that cannot be.

    With ``holding`` the data are there already.
    """
    if site.threads is not None:
        torch.set_num_threads(site.threads)
    checked_name(plan.federation, "federation")
    if holding is None:
        told = data_key(plan), plan.seed, site
        holding = _open_data(*told) if site.simulated else _open_own(plan.federation, *told)
    _check_inputs(holding, plan)
    path = checkpoint_path(site.cache_dir, plan.weights) if plan.weights else None
    opened = _open_model(
        replace(plan, federation="any", rounds=1, fraction=1.0, data={"name": "any"}).to_json(),
        path if path and path.exists() else None,
        holding.data.input_shape,
        len(holding.data.classes),
        site.models_dir,
    )
    device = choose_device(site.device)
    if plan.train.compile:
        _check_compiler(device)
    return Bench(site, plan, holding, make_method(plan.method), opened, device)


def reopened(bench: Bench) -> Bench:
    """Return the bench again, with a checkpoint that has arrived since."""
    return replace(open_bench(bench.site, bench.plan), pieces=bench.pieces)


def within_memory(bench: Bench, do: Callable[[Bench], Done]) -> Done:
    """Return what ``do`` gives at ``bench``; out of memory, it begins again with smaller pieces.

    Everything that ``do`` changes is set up anew in each try: the model, the optimiser, the random
    numbers. So the pieces are as if they had been chosen from the beginning.
    """

    def attempt(pieces: int) -> Done:
        if pieces > 1:
            _SHELF.clear()
        bench.blueprint.model.zero_grad(set_to_none=True)
        return do(replace(bench, pieces=pieces))

    return in_pieces(attempt, most=max(bench.plan.train.batch_size, 2), device=bench.device)


def choose_device(wanted: str) -> torch.device:
    """Return the device that ``auto``, ``cpu``, ``cuda`` or ``cuda:N`` means here; else UserError."""
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    told = "device" + private(f" {wanted!r}")
    device: torch.device | None = None
    with suppress(RuntimeError):
        device = torch.device(wanted)
    if device is None or device.type not in ("cpu", "cuda"):
        raise UserError(told + " does not exist; use auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(told + " was asked for, but torch finds no CUDA device here")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        last = f"cuda:{torch.cuda.device_count() - 1}"
        raise UserError(told + f" was asked for, but the last CUDA device here is {last}")
    return device


def _check_compiler(device: torch.device) -> None:
    """Raise UserError where torch.compile lacks the compiler that it calls."""
    chosen = os.environ.get("CXX" if device.type == "cpu" else "CC")
    names = [chosen] if chosen else ["g++"] if device.type == "cpu" else ["gcc", "clang"]
    if not any(map(shutil.which, names)):
        told = private(f" ({', '.join(names)})")
        raise UserError(
            f"train.compile=true needs a C++ compiler{told}, and there is none here: install one "
            "or set train.compile=false"
        )


def checkpoint_path(cache_dir: Path, content_hash: str) -> Path:
    """Return where a site keeps the pre-trained checkpoint of that content hash."""
    return cache_dir / "weights" / f"{checked_name(content_hash, 'weights')}.safetensors"


def keep_checkpoint(bench: Bench, payloads: Mapping[str, bytes]) -> None:
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
    with writing(_CHECKPOINT):
        weights.save(checkpoint_path(bench.site.cache_dir, wanted), tensors, {})


def who(bench: Bench) -> SiteReport:
    """Say who the site is, what it holds and what its model looks like.

    Raises
    ------
    UserError
        Where nothing that the site could train would be taken.
    """
    _check_steps(bench)
    data, division = bench.holding.data, bench.blueprint.partition
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
        site=bench.holding.site,
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
            group: {name: described(form) for name, form in forms(division.schema(group)).items()}
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
        held=bench.exchange.held(started=holds_weights),
    )


def _check_steps(bench: Bench) -> None:
    """Raise UserError where the site's own limit of steps has all its rounds refused.

    Where fine-tuning follows, such a site has that; and how much a method with a way of its own to
    train does in a round, only the rounds show.
    """
    most = bench.site.most_steps
    if most is None or bench.plan.tuning.epochs or type(bench.method).train is not Method.train:
        return
    planned = planned_steps(len(bench.holding.data.train), _settings(bench, 1))
    if reason := bench.method.refuses(min(most, planned), planned):
        raise UserError(
            f"this site's max-steps={most} cuts every round short, and none would be taken "
            f"({reason}): raise max-steps, or shorten the rounds"
        )


def train(
    bench: Bench,
    round_number: int,
    payloads: Mapping[str, bytes],
    coded: Mapping[str, Coded] = NOTHING_CODED,
    taken: Mapping[str, int] = NOTHING_TAKEN,
) -> tuple[RoundReport, dict[str, bytes]]:
    """Train one round from what was received; return the report and the exchanged groups.

    What stays at the site is on its disk before this returns. ``taken`` is of which round the last
    update is that the server took, by group: what that one owes goes with this one.
    """
    received = bench.exchange.read(payloads, coded)
    owed = bench.exchange.owed(taken)
    seat, report = trained(bench, round_number, received.tensors, bench.store)
    update, left = bench.exchange.write(exchanged_tensors(bench), received.tensors, owed)
    kept = replace(keepsake(seat, bench), owed=left)
    kept = replace(kept, received=received.held, hashes=received.hashes)
    bench.store.save(round_number, kept, taken.values())
    return report, update


def exchanged_tensors(bench: Bench) -> dict[str, Tensor]:
    """Return copies of what the bench's model exchanges now, by name."""
    division = bench.blueprint.partition
    names = [n for group in division.exchanged_groups() for n in division.exchanged_names(group)]
    return bench.blueprint.tensors(names)


def evaluate_received(
    bench: Bench,
    round_number: int,
    payloads: Mapping[str, bytes],
    coded: Mapping[str, Coded] = NOTHING_CODED,
) -> RoundReport:
    """Return the metrics of the received layers together with the site's own; train nothing."""
    started = time.perf_counter()
    received = bench.exchange.read(payloads, coded)
    seat = set_up(bench, round_number, received.tensors, bench.store)
    return _report(bench, round_number, started, _metrics(bench, seat), seat)


def train_alone(bench: Bench) -> RoundReport:
    """Train the plan's rounds with nothing exchanged; return the metrics of the result.

    It is method ``local``, played round by round, so it has the same seeds, steps and schedule as
    the federation, in as many rounds as a site is asked in on average. Nothing is written to
    disk and no tensor leaves.
    """
    started = time.perf_counter()
    no_tuning = replace(bench.plan.tuning, epochs=0)  # of groups that `local` may not have
    alone_plan = replace(bench.plan, method={"name": "local"}, tuning=no_tuning)
    alone = replace(open_bench(bench.site, alone_plan, bench.holding), pieces=bench.pieces)
    store = MemoryStore()
    for number in bench.plan.rounds_of_a_site():
        play(alone, number, {}, store, measure=False)
    last = bench.plan.rounds + 1
    seat = set_up(alone, last, {}, store)
    return _report(alone, last, started, _metrics(alone, seat), seat)


def deploy(
    bench: Bench,
    round_number: int,
    payloads: Mapping[str, bytes],
    coded: Mapping[str, Coded] = NOTHING_CODED,
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
    before = _metrics(bench, seat)
    site_round = seat.site_round
    chosen = site_round.trainable(tuning.groups)
    after = before
    if chosen:
        generator = seeded(derive_seed(bench.plan.seed, "deploy", bench.holding.site))
        lr = bench.plan.train.optimizer.lr * tuning.lr_factor
        site_round.generator = generator
        site_round.settings = replace(site_round.settings, lr=lr)
        site_round.optimizer_state = {}
        bench.method.tune(site_round, tuning.groups, tuning.epochs)
        check_finite(bench.blueprint)
        after = _metrics(bench, seat)
    _keep_deployed(bench, site_round, chosen)
    done = _report(bench, round_number, started, after, seat)
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


def _keep_deployed(bench: Bench, site_round: SiteRound, tuned: Mapping[str, Tensor]) -> None:
    """Write the whole model, and the method's own tensors as ``memory/...``, for the site to use."""
    tensors = bench.blueprint.tensors(list(bench.blueprint.model.state_dict()))
    memory = {f"memory/{name}": tensor for name, tensor in site_round.memory.items()}
    data = bench.holding.data
    told = {"task": data.task, "classes": data.classes, "tuned": list(tuned)}
    bench.store.deploy({**tensors, **memory}, {"model": json.dumps({**bench.plan.model, **told})})


def play(
    bench: Bench,
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
    store.save(round_number, keepsake(seat, bench))
    return report


def trained(
    bench: Bench,
    round_number: int,
    received: Mapping[str, Tensor],
    store: Store,
    *,
    measure: bool = True,
) -> tuple[Prepared, RoundReport]:
    """Play one round as `play` does, but keep nothing yet."""
    started = time.perf_counter()
    seat = set_up(bench, round_number, received, store)
    metrics = _metrics(bench, seat) if measure else {}
    seat.train_round()
    check_finite(bench.blueprint)
    return seat, _report(bench, round_number, started, metrics, seat)


def keepsake(seat: Prepared, bench: Bench) -> Keepsake:
    """Return what stays at the site of a round that was played."""
    memory = {n: t.detach().cpu().contiguous() for n, t in seat.site_round.memory.items()}
    kept = bench.blueprint.tensors(bench.blueprint.partition.kept_names())
    return Keepsake(kept, seat.site_round.optimizer_state, memory)


def check_finite(blueprint: Blueprint) -> None:
    """Raise Diverged where a tensor of the model is not finite."""
    for name, tensor in blueprint.model.state_dict().items():
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
    bench: Bench, round_number: int, received: Mapping[str, Tensor], store: Store
) -> Prepared:
    """Load what the site kept and what arrived into the model, and seed the round.

    Raises
    ------
    UserError
        Where the pre-trained checkpoint is not there, or what was kept does not fit.
    """
    blueprint, data, device = bench.blueprint, bench.holding.data, bench.device
    if (
        bench.plan.weights
        and not checkpoint_path(bench.site.cache_dir, bench.plan.weights).exists()
    ):
        raise UserError(
            f"the pre-trained checkpoint {bench.plan.weights} is not on this site's disk"
        )
    kept = store.before(round_number) or Keepsake()
    check_kept(kept, blueprint, bench.holding.site)
    blueprint.load(bench.start)
    blueprint.load(kept.tensors)
    blueprint.load(received)
    to_device(blueprint.model, device)
    generator = seeded(derive_seed(bench.plan.seed, "round", bench.holding.site, round_number))
    tail, splits = _frozen_once(bench)
    site_round = SiteRound(
        model=blueprint.model,
        network=blueprint.network,
        tail=tail,
        partition=blueprint.partition,
        received={name: tensor.to(device) for name, tensor in received.items()},
        train=splits["train"],
        classes=len(data.classes),
        settings=_settings(bench, round_number),
        loss=site_loss(bench.plan.train, splits["train"], len(data.classes), device),
        generator=generator,
        device=device,
        memory=dict(kept.memory),
        optimizer_state=dict(kept.optimizer),
        most_steps=bench.site.most_steps,
    )
    measured = {name: splits[name] for name in SPLITS}
    return Prepared(site_round, bench.method, measured)


def to_device(model: nn.Module, device: torch.device) -> None:
    """Put the model on the device; on CUDA with channels last, as its convolutions are fastest."""
    if device.type == "cuda":
        model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    else:
        model.to(device)


def caches_features(bench: Bench) -> bool:
    """Return whether the frozen prefix runs once, and its outputs are kept."""
    config = bench.plan.train
    return bool(bench.blueprint.cut) and config.cache_features and config.augment == "none"


def _frozen_once(bench: Bench) -> tuple[nn.Module, dict[str, Split]]:
    """Return what is left to run each step, over the outputs of the frozen prefix where cached."""
    data, cut = bench.holding.data, bench.blueprint.cut
    if not caches_features(bench):
        splits = {"train": data.train, "validation": data.validation, "test": data.test}
        return _compiled(bench, bench.blueprint.network), _near(bench, splits)
    prefix, tail = split(bench.blueprint.network, cut)
    return _compiled(bench, tail), _near(bench, features_of(bench, prefix))


def _compiled(bench: Bench, network: nn.Module) -> nn.Module:
    """Return the network to run, compiled where that is configured; it shares its tensors."""
    if not bench.plan.train.compile:
        return network
    return cast(nn.Module, torch.compile(network))  # once a process for one structure


def _near(bench: Bench, splits: dict[str, Split]) -> dict[str, Split]:
    """Return the splits, on a GPU with what fits there in its memory."""
    if bench.device.type != "cuda" or bench.pieces > 1:
        return splits
    return {
        name: part
        if isinstance(part.inputs, Computed)
        else _SHELF.on_device(part, bench.device, room_on(bench.device, _SHELF))
        for name, part in splits.items()
    }


def features_of(bench: Bench, prefix: nn.Module) -> dict[str, Split]:
    """Return the site's splits with the outputs of ``prefix`` as inputs, computed once."""
    data = bench.holding.data
    splits = {"train": data.train, "validation": data.validation, "test": data.test}
    site = bench.site
    cache = Cache(
        site.cache_dir / "features", site.cache_gb * 10**9, bench.plan.train.feature_dtype
    )
    return {
        name: cached(
            prefix,
            bench.opened.prefix_digest,
            part,
            cache,
            batch_size=bench.evaluation_batch,
            device=bench.device,
            autocast=bench.autocast,
        )
        for name, part in splits.items()
    }


def _metrics(bench: Bench, seat: Prepared) -> dict[str, dict[str, float | None]]:
    network = seat.method.predictor(seat.site_round)
    return {
        name: evaluate(
            network,
            part,
            classes=len(bench.holding.data.classes),
            batch_size=bench.evaluation_batch,
            device=bench.device,
            autocast=bench.autocast,
        )
        for name, part in seat.measured.items()
    }


def _report(
    bench: Bench,
    round_number: int,
    started: float,
    metrics: dict[str, dict[str, float | None]],
    seat: Prepared,
) -> RoundReport:
    fits = seat.site_round.fits
    return RoundReport(
        site=bench.holding.site,
        round=round_number,
        examples=len(bench.holding.data.train),
        steps=sum(fit.steps for fit in fits),
        planned=sum(fit.planned for fit in fits),
        loss=fits[-1].loss if fits else 0.0,
        seconds=time.perf_counter() - started,
        metrics=metrics,
        error="",
    )


def _settings(bench: Bench, round_number: int) -> Settings:
    config = bench.plan.train
    factor = schedule_factor(config.schedule, round_number, bench.plan.rounds)
    settings = settings_of(config, factor=factor, autocast=bench.autocast)
    return replace(settings, pieces=bench.pieces)


def site_loss(config: TrainConfig, train: Split, classes: int, device: torch.device) -> Loss:
    """Return what a site minimises, its class weights included."""
    if config.class_weights == "none":
        return functional.cross_entropy
    return WeightedLoss(class_weights(train.labels, classes).to(device))


def _check_inputs(holding: Holding, plan: Plan) -> None:
    """Refuse token ids for a network of numbers, and the reverse; flips of what is no picture."""
    model = str(plan.model["name"])
    given = holding.data.train.inputs.batch(np.arange(1)).dtype
    if given != input_dtype(model):
        told = {torch.int64: "texts, as token ids"}.get(given, "numbers or pictures")
        other = "data=text" if given != torch.int64 else "model=text_encoder"
        raise UserError(f"the data are {told}, which model={model} does not take: choose {other}")
    if plan.train.augment != "none" and len(holding.data.input_shape) != 3:
        raise UserError(
            f"train.augment={plan.train.augment} is for pictures, and these data are none: write "
            "train.augment=none"
        )


def check_kept(kept: Keepsake, blueprint: Blueprint, site: str) -> None:
    """Raise UserError where what the site kept is not of the model."""
    own = blueprint.partition
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


def data_key(plan: Plan) -> str:
    """Return the plan's choice of data as a text: equal ones give a site the same data."""
    return json.dumps(plan.data, sort_keys=True)


@lru_cache(maxsize=_HOLDINGS)
def _open_data(options: str, seed: int, site: Site) -> Holding:
    return read_data(options, seed, site)


def _open_own(federation: str, options: str, seed: int, site: Site) -> Holding:
    """Read what a deployed site holds, anew for each run: what is there may have been mended."""
    run = federation, options, seed
    if _OWN.get(site, (None,))[0] != run:
        _OWN.pop(site, None)  # not two in memory
        _OWN[site] = run, read_data(options, seed, site)
    return _OWN[site][1]


def read_data(options: str, seed: int, site: Site) -> Holding:
    """Read the site's data; ``options`` is as `data_key` gives it. UserError where it cannot be."""
    data = json.loads(options)
    seat = Seat(
        site.name,
        site.task,
        site.index,
        site.count,
        site.data_root,
        site.models_dir,
        deployed=not site.simulated,
    )
    with reading_data():
        holding = load_data(str(data["name"]), data, seat, seed)
    checked_name(holding.site, "site")
    checked_name(holding.data.task, "task")
    return holding


@lru_cache(maxsize=_BLUEPRINTS)
def _open_model(
    plan: str,
    checkpoint: Path | None,
    input_shape: tuple[int, ...],
    classes: int,
    models_dir: Path,
) -> Opened:
    read = plan_from_json(plan)
    blueprint = draw_up(
        read,
        make_method(read.method),
        input_shape=input_shape,
        classes=classes,
        models_dir=models_dir,
    )
    if checkpoint is not None:
        with private_reason(f"{_CHECKPOINT} cannot be read: delete it, it will be sent again"):
            tensors, _ = weights.load(checkpoint)
        if weights.content_hash(tensors) != read.weights:
            here = private(checkpoint, _CHECKPOINT)
            raise UserError(here + " is damaged: delete it, it will be sent again")
        blueprint.start_from(tensors)
    return Opened(blueprint, blueprint.tensors(list(blueprint.model.state_dict())))
