"""A round of many small sites on one device: by a plain loop, one after the other, or stacked."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.measure.fresh_process import memory_now, peak_memory
from benchmarks.measure.limits import operations
from fedstrata.protocol.plan import FitConfig, OptimizerConfig
from models.networks import build
from models.training.batched import Learner, fit_batched
from models.training.data import ArrayInputs, Split
from models.training.loop import FitSettings, batches, fit
from models.training.losses import CrossEntropy

Tensors = Mapping[str, Tensor]
PLAIN = 0  # sites at once of the plain loop, which knows no stack
CLASSES, BATCH, RATE, SEED = 10, 10, 0.05, 5
# The two-convolution network of PFLlib's tables, and the perceptron of benchmarks.simulate.
NETWORKS: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "fedavg_cnn": ((1, 28, 28), {}),
    "mlp": ((561,), {"hidden": [128, 64]}),
}
CONFIG = FitConfig(1, None, BATCH, OptimizerConfig("sgd", RATE, 0.0, 0.0), None, "none")


@dataclass(frozen=True)
class Case:
    """How a round is played.

    Parameters
    ----------
    network : str
        One of `NETWORKS`.
    at_once : int
        Sites of a stack: 1 for one after the other, `PLAIN` for the plain loop.
    sites, examples : int
        Sites, and examples of each.
    """

    network: str
    at_once: int
    sites: int
    examples: int

    @property
    def name(self) -> str:
        """What the table calls it."""
        how = "plain loop" if self.at_once == PLAIN else f"{self.at_once} at once"
        return f"{self.network}, {how}"

    @property
    def plain(self) -> Case:
        """The same by the plain loop."""
        return replace(self, at_once=PLAIN)


@dataclass(frozen=True)
class Cost:
    """Seconds of a round, and the most bytes that it added: on a GPU those that torch allocated."""

    seconds: float
    memory: float


def network_of(case: Case) -> nn.Sequential:
    """Return the network that all sites begin with."""
    torch.manual_seed(SEED)
    shape, options = NETWORKS[case.network]
    return build(case.network, input_shape=shape, classes=CLASSES, head=(), **options)


def splits_of(case: Case) -> Iterator[Split]:
    """Yield each site's examples: noise, and labels that differ between sites."""
    shape, _ = NETWORKS[case.network]
    for site in range(case.sites):
        generator = np.random.default_rng((SEED, site))
        inputs = generator.normal(size=(case.examples, *shape)).astype(np.float32)
        yield Split(ArrayInputs(inputs), generator.integers(0, CLASSES, case.examples))


def least_operations(case: Case) -> float:
    """Return the floating point operations of a round: forward and backward over each example."""
    network, (shape, _) = network_of(case), NETWORKS[case.network]
    one = torch.zeros(1, *shape)
    return case.sites * case.examples * operations(lambda: network(one).sum().backward())


def train(case: Case, result: Path, device: str = "cpu") -> Cost:
    """Play a round in this process; write the mean of all sites to the safetensors file ``result``.

    A first round of one stack, which is not timed, loads what a device needs.
    """
    where, play = torch.device(device), _player(case)
    on_gpu = where.type == "cuda"
    play(where, list(splits_of(replace(case, sites=max(case.at_once, 1)))))
    splits = list(splits_of(case))
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(where)
    before, started = memory_now(), time.perf_counter()
    means = play(where, splits)
    if on_gpu:
        torch.cuda.synchronize(where)
    seconds, memory = time.perf_counter() - started, max(peak_memory() - before, 0)
    if on_gpu:
        memory = torch.cuda.max_memory_allocated(where)
    safetensors.torch.save_file({n: t.float().contiguous() for n, t in means.items()}, result)
    return Cost(seconds, memory)


def _player(case: Case) -> Callable[[torch.device, list[Split]], Tensors]:
    """Return what plays a round over some sites, and returns the mean of their parameters."""
    network = network_of(case)
    start = {name: tensor.clone() for name, tensor in network.state_dict().items()}

    def play(device: torch.device, splits: list[Split]) -> Tensors:
        network.to(device).train()
        begin = {name: tensor.to(device) for name, tensor in start.items()}
        total = {
            name: torch.zeros_like(tensor, dtype=torch.float64) for name, tensor in start.items()
        }
        if case.at_once > 1:
            for first in range(0, len(splits), case.at_once):
                stack = _stacked(network, begin, splits[first : first + case.at_once], device)
                for name, tensor in stack.items():
                    total[name] += tensor.cpu().double().sum(0)
        else:
            one = _by_loop if case.at_once == PLAIN else _by_fit
            for split in splits:
                network.load_state_dict(begin)
                one(network, split, device)
                for name, tensor in network.state_dict().items():
                    total[name] += tensor.cpu()
        return {name: tensor / len(splits) for name, tensor in total.items()}

    return play


def _stacked(
    network: nn.Module, begin: Tensors, splits: list[Split], device: torch.device
) -> dict[str, Tensor]:
    stack = {name: torch.stack([tensor] * len(splits)) for name, tensor in begin.items()}
    learners = [Learner(split, _order(), {}, CrossEntropy()) for split in splits]
    fit_batched(
        network, stack, learners, FitSettings(CONFIG), trained=list(stack), kept=(), device=device
    )
    return stack


def _by_fit(network: nn.Module, split: Split, device: torch.device) -> None:
    trained = dict(network.named_parameters())
    settings = FitSettings(CONFIG)
    fit(network, split, settings, trained=trained, generator=_order(), device=device)


def _by_loop(network: nn.Module, split: Split, device: torch.device) -> None:
    inputs = split.inputs.batch(np.arange(len(split))).to(device)
    labels = torch.from_numpy(split.labels).to(device)
    optimizer = torch.optim.SGD(network.parameters(), lr=RATE)
    for indices in batches(len(split), CONFIG, _order()):
        rows = torch.from_numpy(indices).to(device)
        optimizer.zero_grad()
        functional.cross_entropy(network(inputs[rows]), labels[rows]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def _order() -> np.random.Generator:
    """Return what draws the order of a site's examples: the same in each case."""
    return np.random.default_rng(SEED)
