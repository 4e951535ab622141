"""Fine-tuning at one site over a frozen backbone, by the usual tutorial loop or by ours."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from benchmarks.measure import feature_loops
from benchmarks.measure.fresh_process import memory_now, peak_memory
from client_app.feature_cache import FeatureCache, cached
from client_app.gpu_cache import GpuCache, room_on, to_device
from client_app.node_config import DEFAULT_CACHE_GB
from fedstrata.protocol.plan import FitConfig, OptimizerConfig
from models.freezing import freeze, frozen_cut, prefix_digest, set_train_mode, split_at
from models.groups import partition_tensors
from models.networks import build
from models.training.data import ArrayInputs, Split
from models.training.loop import FitSettings, batches, fit, parameters_of

TUTORIAL, COLD, WARM = "tutorial loop", "ours, empty cache", "ours, full cache"
EXACT = "ours, empty cache in float32"
PLAIN, KEPT = "plain loop over features", "plain loop, features kept"
LOADER, LIGHTNING = "DataLoader over features", "Lightning over features"
LOOPS = (PLAIN, KEPT, LOADER, LIGHTNING)
SIDES = (TUTORIAL, *LOOPS, EXACT, COLD, WARM)
"""In the order in which they are played: each kept state is left by a side before."""
TRAINED: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("resnet18", "head"): ("head",),
    ("resnet18", "last stage"): ("layer4", "head"),
    ("vgg16", "head"): ("head",),
    ("vgg16", "last stage"): ("features.24", "features.26", "features.28", "head"),
}
CLASSES, SEED = 2, 2026
EVALUATION_BATCH = 256  # as conf/train/default.yaml has it
CONFIG = FitConfig(
    epochs=5,
    steps=None,
    batch_size=32,
    optimizer=OptimizerConfig("sgd", lr=0.01, momentum=0.9, weight_decay=1e-4),
    clip=None,
    augment="none",
)


@dataclass(frozen=True)
class Case:
    """What is fine-tuned: a network at a picture size, its trained part, and for how long."""

    network: str
    size: int
    trained: str
    images: int
    epochs: int
    rounds: int

    @property
    def name(self) -> str:
        """The name of the table's row."""
        return f"{self.network}, {self.size}x{self.size}, {self.trained}"

    @property
    def config(self) -> FitConfig:
        """The training of one round."""
        return replace(CONFIG, epochs=self.epochs)


@dataclass(frozen=True)
class Cost:
    """What one side took: seconds, those of processors, and bytes.

    The bytes are beyond a process with the model and the pictures; on a GPU, those that it had
    allocated at the most.
    """

    seconds: float
    memory: int
    processor: float = 0.0


@dataclass(frozen=True)
class Site:
    """A case set up: the network, its trained parameters, where it can be cut, and the pictures."""

    network: nn.Sequential
    trained: dict[str, nn.Parameter]
    cut: int
    data: Split


def site_of(case: Case) -> Site:
    """Return the network from a seed, frozen but for its trained part, and random pictures."""
    torch.manual_seed(SEED)
    shape = (3, case.size, case.size)
    options: dict[str, Any] = {"classifier": False} if case.network.startswith("vgg") else {}
    network = build(case.network, input_shape=shape, classes=CLASSES, head=(), **options)
    groups = {"pretrained": ["..."], "common": list(TRAINED[case.network, case.trained])}
    layer_groups = partition_tensors(network, groups)
    freeze(network, layer_groups)
    network.train()
    set_train_mode(network, layer_groups)
    generator = np.random.default_rng(SEED)
    pixels = generator.integers(0, 256, (case.images, case.size, case.size, 3), np.uint8)
    labels = generator.integers(0, CLASSES, case.images)
    inputs = ArrayInputs(pixels, (0.5,), (0.25,))
    trained = parameters_of(network, layer_groups.names("common"))
    return Site(network, trained, frozen_cut(network, layer_groups), Split(inputs, labels))


def fine_tune(case: Case, side: str, cache: Path, result: Path, device: str = "cpu") -> Cost:
    """Fine-tune in this process; write the trained parameters to the safetensors file ``result``."""
    site, where = site_of(case), torch.device(device)
    if side in (WARM, COLD, EXACT):
        to_device(site.network, where)
    else:
        site.network.to(where)
    if side == LIGHTNING:
        feature_loops.load_lightning()  # not in its time, as no other import is
    before, started, processor = memory_now(), time.perf_counter(), time.process_time()
    if side == TUTORIAL:
        _tutorial(case, site, where)
    elif side in LOOPS:
        made = _loop(case, site, side, cache.with_suffix(".pt"), where)
    else:
        exact = side == EXACT
        features = FeatureCache(cache, DEFAULT_CACHE_GB * 10**9, "float32" if exact else "float16")
        _ours(case, site, features, where, autocast=where.type == "cuda" and not exact)
    if where.type == "cuda":
        torch.cuda.synchronize(where)  # what was enqueued belongs to the time
    seconds, memory = time.perf_counter() - started, max(peak_memory() - before, 0)
    processor = time.process_time() - processor
    if where.type == "cuda":
        memory = torch.cuda.max_memory_allocated(where)
    if side == PLAIN:  # not in its time: what is kept is for the next
        feature_loops.save_features(made, cache.with_suffix(".pt"))
    kept = {name: tensor.detach().cpu().contiguous() for name, tensor in site.trained.items()}
    safetensors.torch.save_file(kept, result)
    return Cost(seconds, memory, processor)


def _loop(case: Case, site: Site, side: str, kept: Path, device: torch.device) -> TensorDataset:
    """Train by a loop over features, which are computed, or read from ``kept``; return them."""
    prefix, tail = split_at(site.network, site.cut)
    if side == KEPT:
        data = feature_loops.load_features(kept, device)
    else:
        data = feature_loops.features_of(prefix, site.data, device)
    play = {LOADER: feature_loops.loader_round, LIGHTNING: feature_loops.lightning_round}
    for number in range(case.rounds):
        play.get(side, feature_loops.plain_round)(tail, data, case.config, number)
    return data


def _tutorial(case: Case, site: Site, device: torch.device) -> None:
    config = case.config
    for number in range(case.rounds):
        optimizer = torch.optim.SGD(
            site.trained.values(),
            lr=config.optimizer.lr,
            momentum=config.optimizer.momentum,
            weight_decay=config.optimizer.weight_decay,
        )
        for indices in batches(len(site.data), config, np.random.default_rng(number)):
            inputs = site.data.inputs.batch(indices).to(device)
            labels = torch.from_numpy(site.data.labels[indices]).to(device)
            optimizer.zero_grad()
            loss = functional.cross_entropy(site.network(inputs), labels)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()


def _ours(
    case: Case, site: Site, cache: FeatureCache, device: torch.device, *, autocast: bool
) -> None:
    gpu_cache = GpuCache()
    digest = prefix_digest(
        site.network, site.cut
    )  # once a process, as client_app/context.py has it
    for number in range(case.rounds):  # as client_app/round.py sets up every round
        prefix, tail = split_at(site.network, site.cut)
        features = cached(
            prefix,
            digest,
            site.data,
            cache,
            batch_size=EVALUATION_BATCH,
            device=device,
            autocast=autocast,
        )
        if device.type == "cuda":
            features = gpu_cache.on_device(features, device, room_on(device, gpu_cache))
        fit(
            tail,
            features,
            FitSettings(case.config, autocast=autocast),
            trained=site.trained,
            generator=np.random.default_rng(number),
            device=device,
        )
