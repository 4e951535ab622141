"""Fine-tuning at one site over a frozen backbone: `python -m benchmarks.local`.

As the usual tutorial loop writes it (every batch through the whole network, every epoch) and ours,
which runs the frozen layers once and keeps what they gave: with an empty cache and with a full one, in
float16 as by default, and with an empty one in float32. Each in a fresh process, in turn, from the same
start, over the same batches: the trained layers that come out with float32 are compared. On a GPU
(`--device cuda`) ours computes as a site does there: in bfloat16, its convolutions with channels last, on
examples that stay in the GPU's memory; the float32 column does all of that but bfloat16.
"""

from __future__ import annotations

import argparse
import statistics
import sys
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

from benchmarks.measure.fresh_process import apart, in_gpu_memory, largest_difference, most_resident
from benchmarks.measure.limits import Limits, limits, operations
from benchmarks.report.command_line import at_least, command_of, output_of, with_output
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
# Of the norm of a tensor: batches of another size round otherwise, and a GPU's convolutions are of
# numbers with 10 bits after the point (TF32).
PRELOAD = ("benchmarks.local", "torchvision")
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
        """Return how a row of the table is called."""
        return f"{self.network}, {self.size}x{self.size}, {self.trained}"

    @property
    def config(self) -> FitConfig:
        """Return how to train in one round."""
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
    division = partition_tensors(network, groups)
    freeze(network, division)
    network.train()
    set_train_mode(network, division)
    generator = np.random.default_rng(SEED)
    pixels = generator.integers(0, 256, (case.images, case.size, case.size, 3), np.uint8)
    labels = generator.integers(0, CLASSES, case.images)
    inputs = ArrayInputs(pixels, (0.5,), (0.25,))
    names = division.names("common")
    trained = parameters_of(network, names)
    return Site(network, trained, frozen_cut(network, division), Split(inputs, labels))


def play(case: Case, side: str, cache: Path, result: Path, device: str = "cpu") -> Cost:
    """Fine-tune in this process; write the trained parameters to the safetensors file ``result``."""
    site, where = site_of(case), torch.device(device)
    if side == TUTORIAL:
        site.network.to(where)
    else:
        to_device(site.network, where)
    before, started = in_gpu_memory(), time.perf_counter()
    if side == TUTORIAL:
        _tutorial(case, site, where)
    else:
        exact = side == EXACT
        kept_as = FeatureCache(cache, DEFAULT_CACHE_GB * 10**9, "float32" if exact else "float16")
        _ours(case, site, kept_as, where, autocast=where.type == "cuda" and not exact)
    if where.type == "cuda":
        torch.cuda.synchronize(where)
    seconds, memory = time.perf_counter() - started, max(most_resident() - before, 0)
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
    shelf = GpuCache()
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
            features = shelf.on_device(features, device, room_on(device, shelf))
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
        medians = {s: statistics.median(cost.seconds for cost in sides[s]) for s in SIDES}
        memory = (statistics.median(cost.memory for cost in sides[s]) for s in SIDES)
        least = least_operations(case) / at_best.product
        made.rows[case.name] = (
            *(f"{medians[side]:.2f}" for side in SIDES),
            f"{medians[TUTORIAL] / medians[COLD]:.1f}",
            f"{least:.2f}",
            f"{medians[COLD] / least:.1f}",
            ", ".join(f"{each / 1e6:.0f}" for each in memory) + " MB",
        )
    return made


def cases(told: argparse.Namespace) -> list[Case]:
    """Return what to fine-tune, as the command line says."""
    if told.quick:
        return [Case("resnet18", 64, trained, 64, 2, 2) for trained in ("head", "last stage")]
    kinds = [("resnet18", 224), ("vgg16", 224), ("resnet18", 64)]
    return [
        Case(network, size, trained, told.images, told.epochs, told.rounds)
        for network, size in kinds
        for trained in ("head", "last stage")
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Play the cases in turn, compare what was learned, and write the table."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="python -m benchmarks.local", description=__doc__)
    parser.add_argument(
        "--images", type=at_least(1), default=256, help="training pictures of the site"
    )
    parser.add_argument("--epochs", type=at_least(1), default=5, help="of a round")
    parser.add_argument("--rounds", type=at_least(1), default=10)
    repeat_told = "of each case on each side, in turn"
    parser.add_argument("--repeat", type=at_least(1), default=3, help=repeat_told)
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--quick", action="store_true", help="one small network, once")
    told = with_output(parser).parse_args(given)
    device = choose_device(told.device)
    found: dict[Case, dict[str, list[Cost]]] = {}
    differences: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for case in cases(told):
            found[case] = {side: [] for side in SIDES}
            for number in range(1 if told.quick else told.repeat):
                cache = Path(folder) / f"{len(found)}-{number}"
                for side in SIDES:
                    result = Path(folder) / side
                    cost = apart(PRELOAD, play, case, side, cache, result, told.device)
                    found[case][side].append(cost)
                    print(case.name, side, f"{cost.seconds:.2f} s", flush=True)
            difference = largest_difference(Path(folder) / EXACT, Path(folder) / TUTORIAL)
            differences[case.name] = difference
            if not difference <= TOLERANCE[device.type]:
                raise SystemExit(f"{case.name}: {EXACT} differs by {difference:g}")
    on_cpu = device.type == "cpu"
    at_best = limits(told.device, torch.float32 if on_cpu else torch.bfloat16)
    notes = [
        at_best.told(),
        f"{told.epochs} epochs in each of {told.rounds} rounds on {told.images} pictures, batches of "
        f"{CONFIG.batch_size}."
        if not told.quick
        else "Two epochs in each of two rounds on 64 pictures: too little for a figure.",
        "Medians, in a process that has the model and the pictures; memory is "
        + ("what is added" if on_cpu else f"what {torch.cuda.get_device_name(device)} allocated")
        + ". At best: one pass of each picture through the frozen layers and the steps of the "
        "trained ones, at the rate of a large matrix product. The trained layers of the tutorial loop "
        f"and of float32 differ by at most {max(differences.values()):.1e} of a tensor's norm.",
    ]
    more = {
        "costs": [
            {**asdict(case), "side": side, **asdict(cost)}
            for case, sides in found.items()
            for side, costs in sides.items()
            for cost in costs
        ],
        "differences": differences,
        "limits": asdict(at_best),
    }
    command = command_of("benchmarks.local", given)
    output = output_of(told)
    name = "local" if on_cpu else "local-gpu"
    write(output, name, [table(found, at_best)], command=command, notes=notes, more=more)


if __name__ == "__main__":
    main()
