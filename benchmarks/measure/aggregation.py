"""One aggregation of replies that are made one at a time, by ours or by Flower's own strategy."""

from __future__ import annotations

import json
import logging
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import strategy as flower
from numpy.typing import NDArray
from omegaconf import OmegaConf
from torch import Tensor

from benchmarks.flower.processes import REPOSITORY
from benchmarks.measure.fresh_process import memory_now, peak_memory
from fedstrata.protocol.payload import decode, encode
from fedstrata.protocol.tensors import TensorSpec
from models.networks import build
from strategies.aggregators import MAX_MAGNITUDE, make_aggregator

OURS, FLOWER = "fedstrata", "Flower"
SIDES = (OURS, FLOWER)
RULES = ("fedavg", "median", "trimmed_mean", "krum")
# Group to how the names of its tensors start; the first that fits counts.
GROUPS = {"task": ("layer4.", "head."), "common": ("",)}
SHIFT = 1031  # elements of the pool between the values of one site and the next
EXAMPLES = 100  # of the first site; each has one more than the one before
MALICIOUS, KEPT = 1, 3  # of Krum


@dataclass(frozen=True)
class Case:
    """One aggregation of ``count`` replies by ``rule`` on one side, within ``memory_mb`` or as set."""

    rule: str
    count: int
    side: str
    network: str = "resnet18"
    memory_mb: float | None = None


def _zeros() -> dict[str, float]:
    return defaultdict(float)


@dataclass
class Cost:
    """What a case took: seconds and processor seconds by group, and the bytes that it added."""

    seconds: dict[str, float] = field(default_factory=_zeros)
    processor: dict[str, float] = field(default_factory=_zeros)
    memory: int = 0

    @property
    def total(self) -> float:
        """Seconds of all groups together."""
        return sum(self.seconds.values())


@dataclass
class DrawnReplies:
    """Replies whose values are those of one random pool, read from another place for each site.

    They are scaled, too: some sites lie further from the rest than others, so that Krum chooses by
    more than the rounding of distances. Each is made when it is asked for, since 1,000 do not fit.

    Parameters
    ----------
    state : mapping of str to Tensor
        The model that the sites received: float32, by name.
    count : int
        Their number.
    """

    state: Mapping[str, Tensor]
    count: int
    pool: NDArray[np.float32] = field(init=False)
    payloads: dict[str, bytearray] = field(init=False)

    def __post_init__(self) -> None:
        size = sum(tensor.numel() for tensor in self.state.values()) + SHIFT * self.count
        generator = np.random.default_rng(2026)
        self.pool = generator.standard_normal(size, dtype=np.float32) * np.float32(0.05)
        self.payloads = {
            group: bytearray(encode({name: self.state[name] for name in names}))
            for group, names in names_by_group(self.state).items()
        }

    def examples(self, site: int) -> int:
        """Return the examples that ``site`` reports."""
        return EXAMPLES + site

    def arrays(self, site: int) -> dict[str, NDArray[np.float32]]:
        """Return what ``site`` sends, by name: float32."""
        return dict(self._each(site))

    def encoded(self, site: int) -> dict[str, bytes]:
        """Return what ``site`` sends by group, as it travels; nothing else is allocated beside it."""
        places = {
            name: place
            for group, names in names_by_group(self.state).items()
            for name, place in zip(names, self._places(group, names), strict=True)
        }
        for name, values in self._each(site):
            places[name][:] = values.reshape(-1)
        return {group: bytes(payload) for group, payload in self.payloads.items()}

    def _each(self, site: int) -> Iterator[tuple[str, NDArray[np.float32]]]:
        scale = np.float32(1 + (7 * site % self.count) / self.count)
        start = SHIFT * site
        for name, tensor in self.state.items():
            values = self.pool[start : start + tensor.numel()]
            yield name, (values * scale).reshape(tuple(tensor.shape))
            start += values.size

    def _places(self, group: str, names: Sequence[str]) -> list[NDArray[np.float32]]:
        """Return where the values of each name are written in the group's payload."""
        payload = self.payloads[group]
        begins = 8 + int.from_bytes(payload[:8], "little")
        header = json.loads(payload[8:begins])
        body = np.frombuffer(payload, np.uint8, offset=begins)
        spans = (slice(*header[name]["data_offsets"]) for name in names)
        return [body[span].view(np.float32) for span in spans]


def names_by_group(names: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the names of each group."""
    groups: dict[str, list[str]] = {group: [] for group in GROUPS}
    for name in names:
        groups[next(g for g, starts in GROUPS.items() if name.startswith(starts))].append(name)
    return groups


def model(network: str) -> dict[str, Tensor]:
    """Return the floating point tensors of a network for 64x64 pictures and two classes."""
    state = build(network, input_shape=(3, 64, 64), classes=2, head=()).state_dict()
    return {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}


def run_case(case: Case, result: Path) -> Cost:
    """Aggregate in this process; write the new state to the safetensors file ``result``."""
    logging.getLogger("flwr").setLevel(logging.ERROR)
    state = model(case.network)
    replies = DrawnReplies(state, case.count)
    before = memory_now()
    cost = Cost()
    after = (_ours if case.side == OURS else _flowers)(case, state, replies, cost)
    cost.memory = max(peak_memory() - before, 0)
    tensors = {name: torch.from_numpy(array).contiguous() for name, array in after.items()}
    safetensors.torch.save_file(tensors, result)
    return cost


def write_mean(network: str, count: int, result: Path) -> None:
    """Write the weighted mean of the replies, summed in float64, to the safetensors file ``result``."""
    state = model(network)
    replies = DrawnReplies(state, count)
    sums = {name: np.zeros(tuple(t.shape)) for name, t in state.items()}
    for site in range(count):
        for name, values in replies.arrays(site).items():
            sums[name] += values * np.float64(replies.examples(site))
    total = sum(map(replies.examples, range(count)))
    means = {name: torch.from_numpy(each / total) for name, each in sums.items()}
    safetensors.torch.save_file(means, result)


@contextmanager
def _timed(cost: Cost, group: str) -> Iterator[None]:
    started, processor = time.perf_counter(), time.process_time()
    yield
    cost.seconds[group] += time.perf_counter() - started
    cost.processor[group] += time.process_time() - processor


def _ours(
    case: Case, state: Mapping[str, Tensor], replies: DrawnReplies, cost: Cost
) -> dict[str, NDArray[Any]]:
    expected = {str(site): replies.examples(site) for site in range(case.count)}
    groups = names_by_group(state)
    after: dict[str, NDArray[Any]] = {}
    aggregators = {group: make_aggregator(case.rule, options_of(case)) for group in groups}
    schemas = {
        group: {n: TensorSpec(tuple(state[n].shape), "float32") for n in names}
        for group, names in groups.items()
    }
    for group, names in groups.items():
        aggregators[group].begin({name: state[name] for name in names}, expected)
    for site in range(case.count):
        reply = replies.encoded(site)
        for group, data in reply.items():
            with _timed(cost, group):
                tensors = decode(data, schemas[group], max_magnitude=MAX_MAGNITUDE, borrow=True)
                aggregators[group].add(str(site), tensors, replies.examples(site))
                del tensors
        del reply, data  # or the next reply would be made beside this one
    for group, aggregator in aggregators.items():
        with _timed(cost, group):
            made = aggregator.finish()
        assert made is not None, aggregator.note
        after |= {name: tensor.numpy() for name, tensor in made.items()}
    return after


def _flowers(
    case: Case, state: Mapping[str, Tensor], replies: DrawnReplies, cost: Cost
) -> dict[str, NDArray[Any]]:
    strategies: dict[str, Any] = {
        "fedavg": flower.FedAvg,
        "median": flower.FedMedian,
        "trimmed_mean": lambda: flower.FedTrimmedAvg(beta=options_of(case)["beta"]),
        "krum": lambda: flower.MultiKrum(num_malicious_nodes=MALICIOUS, num_nodes_to_select=KEPT),
    }
    messages = list(_messages(case, replies))
    strategy = strategies[case.rule]()
    with _timed(cost, "all"):
        arrays, _ = strategy.aggregate_train(1, messages)
    assert arrays is not None
    return {name: array.numpy() for name, array in arrays.items()}


def _messages(case: Case, replies: DrawnReplies) -> Iterator[Message]:
    """Yield the replies as Flower's strategy gets them: one array record, all layers."""
    for site in range(case.count):
        arrays = ArrayRecord({n: Array(array) for n, array in replies.arrays(site).items()})
        # Ours gives all sites of Krum the same weight; Flower's does so for equal numbers.
        examples = EXAMPLES if case.rule == "krum" else replies.examples(site)
        metrics = MetricRecord({"num-examples": examples})
        order = Message(RecordDict(), dst_node_id=site + 1, message_type="train")
        yield Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=order)


def options_of(case: Case) -> dict[str, Any]:
    """Return the hyper-parameters of a case: those of conf/aggregator/, and what it sets itself."""
    path = REPOSITORY / "conf" / "aggregator" / f"{case.rule}.yaml"
    options: Any = OmegaConf.to_container(OmegaConf.load(path))
    if case.rule == "krum":
        options |= {"num_malicious": MALICIOUS, "num_to_keep": KEPT}
    if case.memory_mb is not None:
        options["memory_mb"] = case.memory_mb
    return dict(options)
