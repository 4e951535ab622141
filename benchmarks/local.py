"""Fine-tuning at one site over a frozen backbone: `python -m benchmarks.local`.

As the usual tutorial loop writes it (every batch through the whole network, every epoch) and ours,
which runs the frozen layers once and keeps their outputs. Ours has an empty cache or a full one in
float16, as by default, or an empty one in float32. Each runs in a fresh process, in turn, from the same
start, over the same batches. The trained layers of the tutorial loop and of float32 are compared.

On a GPU (`--device cuda`) ours computes as a site does there: in bfloat16, its convolutions with channels
last, on examples that stay in the GPU's memory. The float32 column does all of that but bfloat16.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import nn
from torch.nn import functional

from benchmarks.measure.fresh_process import (
    in_fresh_process,
    largest_difference,
    memory_now,
    peak_memory,
)
from benchmarks.measure.limits import Limits, limits, operations
from benchmarks.measure.turns import in_turn, median_of, medians
from benchmarks.report.command_line import add_repeat, at_least, make_parser
from benchmarks.report.tables import Table, write
from client_app.context import choose_device
from client_app.feature_cache import FeatureCache, cached
from client_app.gpu_cache import GpuCache, room_on
from client_app.node_config import DEFAULT_CACHE_GB
from client_app.round import to_device
from fedstrata.protocol.plan import FitConfig, OptimizerConfig
from models.freezing import freeze, frozen_cut, prefix_digest, set_train_mode, split_at
from models.groups import partition_tensors
from models.networks import build
from models.training.data import ArrayInputs, Split
from models.training.loop import FitSettings, batches, fit, parameters_of

TUTORIAL, COLD, WARM = "tutorial loop", "ours, empty cache", "ours, full cache"
EXACT = "ours, empty cache in float32"
SIDES = (TUTORIAL, EXACT, COLD, WARM)
TRAINED: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("resnet18", "head"): ("head",),
    ("resnet18", "last stage"): ("layer4", "head"),
    ("vgg16", "head"): ("head",),
    ("vgg16", "last stage"): ("features.24", "features.26", "features.28", "head"),
}
CLASSES, SEED = 2, 2026
EVALUATION_BATCH = 256  # as conf/train/default.yaml has it
PRELOAD = ("benchmarks.local", "torchvision")
# Of the norm of a tensor. Batches of another size round differently, and a GPU's convolutions use
# numbers with 10 bits after the point (TF32).
TOLERANCE = {"cpu": 1e-4, "cuda": 2e-2}
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
        """How one round trains."""
        return replace(CONFIG, epochs=self.epochs)


@dataclass(frozen=True)
class Cost:
    """What one side took: seconds, and bytes beyond a process with the model and the pictures.

    On a GPU, the bytes are those that it had allocated at the most.
    """

    seconds: float
    memory: int


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
    if side == TUTORIAL:
        site.network.to(where)
    else:
        to_device(site.network, where)
    before, started = memory_now(), time.perf_counter()
    if side == TUTORIAL:
        _tutorial(case, site, where)
    else:
        exact = side == EXACT
        features = FeatureCache(cache, DEFAULT_CACHE_GB * 10**9, "float32" if exact else "float16")
        _ours(case, site, features, where, autocast=where.type == "cuda" and not exact)
    if where.type == "cuda":
        torch.cuda.synchronize(where)  # what was enqueued belongs to the time
    seconds, memory = time.perf_counter() - started, max(peak_memory() - before, 0)
    if where.type == "cuda":
        memory = torch.cuda.max_memory_allocated(where)
    kept = {name: tensor.detach().cpu().contiguous() for name, tensor in site.trained.items()}
    safetensors.torch.save_file(kept, result)
    return Cost(seconds, memory)


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
    for number in range(case.rounds):  # as client_app/round.py sets up every round
        prefix, tail = split_at(site.network, site.cut)
        features = cached(
            prefix,
            prefix_digest(site.network, site.cut),
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


def least_operations(case: Case) -> float:
    """Return the floating point operations that cannot be left out.

    One pass of each picture through the frozen layers, and for each step forward and backward
    through the trained ones.
    """
    site = site_of(replace(case, images=2))
    prefix, tail = split_at(site.network, site.cut)
    inputs = site.data.inputs.batch(np.arange(2))
    with torch.no_grad():
        once = operations(lambda: prefix(inputs))
        features = prefix(inputs)
    again = operations(lambda: tail(features).sum().backward())
    return case.images / 2 * (once + case.epochs * case.rounds * again)


def table(found: Mapping[Case, Mapping[str, Sequence[Cost]]], at_best: Limits) -> Table:
    """Return medians, ratios and limits."""
    made = Table(
        "Fine-tuning over a frozen backbone",
        (
            "network, pictures, trained",
            "tutorial, s",
            "empty cache in float32, s",
            "empty cache, s",
            "full cache, s",
            "tutorial / empty",
            "at best, s",
            "empty / at best",
            "memory: tutorial, float32, empty, full",
        ),
    )
    for case, sides in found.items():
        seconds = medians(sides, lambda cost: cost.seconds)
        memory = (median_of(sides[side], lambda cost: cost.memory) for side in SIDES)
        least = least_operations(case) / at_best.product
        made.rows[case.name] = (
            *(f"{seconds[side]:.2f}" for side in SIDES),
            f"{seconds[TUTORIAL] / seconds[COLD]:.1f}",
            f"{least:.2f}",
            f"{seconds[COLD] / least:.1f}",
            ", ".join(f"{each / 1e6:.0f}" for each in memory) + " MB",
        )
    return made


def cases_of(options: argparse.Namespace) -> list[Case]:
    """Return what the command line asks to fine-tune."""
    if options.quick:
        return [Case("resnet18", 64, trained, 64, 2, 2) for trained in ("head", "last stage")]
    kinds = [("resnet18", 224), ("vgg16", 224), ("resnet18", 64)]
    return [
        Case(network, size, trained, options.images, options.epochs, options.rounds)
        for network, size in kinds
        for trained in ("head", "last stage")
    ]


def measure(case: Case, repeat: int, device: torch.device, folder: Path) -> dict[str, list[Cost]]:
    """Measure a case on every side, in turn; each leaves its trained layers in ``folder``."""
    folder.mkdir()

    def once(side: str, number: int) -> Cost:
        # The same folder for all sides: the full cache is what the empty one left.
        cache = folder / f"cache-{number}"
        cost = in_fresh_process(PRELOAD, fine_tune, case, side, cache, folder / side, str(device))
        print(case.name, side, f"{cost.seconds:.2f} s", flush=True)
        return cost

    return in_turn(SIDES, repeat, once)


def difference(case: Case, device: torch.device, folder: Path) -> float:
    """Return how far float32 is from the tutorial loop; exit where that is more than rounding."""
    found = largest_difference(folder / EXACT, folder / TUTORIAL)
    if not found <= TOLERANCE[device.type]:
        raise SystemExit(f"{case.name}: {EXACT} differs by {found:g}")
    return found


def notes(
    options: argparse.Namespace, device: torch.device, at_best: Limits, largest: float
) -> list[str]:
    """Return what the reader of the table must know; ``largest`` is the largest difference."""
    work = (
        f"{options.epochs} epochs in each of {options.rounds} rounds on {options.images} pictures, "
        f"batches of {CONFIG.batch_size}."
    )
    if options.quick:
        work = "Two epochs in each of two rounds on 64 pictures: too little for a figure."
    memory = "what is added"
    if device.type != "cpu":
        memory = f"what {torch.cuda.get_device_name(device)} allocated"
    return [
        at_best.describe(),
        work,
        f"Medians, in a process that has the model and the pictures; memory is {memory}. "
        "At best: one pass of each picture through the frozen layers and the steps of the "
        "trained ones, at the rate of a large matrix product. The trained layers of the tutorial loop "
        f"and of float32 differ by at most {largest:.1e} of a tensor's norm.",
    ]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = make_parser("local", __doc__, quick="one small network, once")
    images_help = "training pictures of the site"
    parser.add_argument("--images", type=at_least(1), default=256, help=images_help)
    parser.add_argument("--epochs", type=at_least(1), default=5, help="of a round")
    parser.add_argument("--rounds", type=at_least(1), default=10)
    add_repeat(parser, 3, "of each case on each side, in turn")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    return parser.parse(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the cases, compare what was learned, and write the table."""
    options = parse(arguments)
    device = choose_device(options.device)
    found: dict[Case, dict[str, list[Cost]]] = {}
    differences: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        for number, case in enumerate(cases_of(options)):
            folder = Path(name) / str(number)
            found[case] = measure(case, 1 if options.quick else options.repeat, device, folder)
            differences[case.name] = difference(case, device, folder)
    on_cpu = device.type == "cpu"
    at_best = limits(options.device, torch.float32 if on_cpu else torch.bfloat16)
    write(
        options.output,
        "local" if on_cpu else "local-gpu",
        [table(found, at_best)],
        command=options.command,
        notes=notes(options, device, at_best, max(differences.values())),
        more={
            "costs": [
                {**asdict(case), "side": side, **asdict(cost)}
                for case, sides in found.items()
                for side, costs in sides.items()
                for cost in costs
            ],
            "differences": differences,
            "limits": asdict(at_best),
        },
    )


if __name__ == "__main__":
    main()
