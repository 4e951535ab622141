"""Aggregators as conf/ has them, random rounds for them, and Flower's own on the same updates."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import yaml
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import strategy as flower

from strategies.aggregators import make_aggregator

torch.set_num_threads(1)

CONF = Path(__file__).parents[2] / "conf" / "aggregator"
DEFAULTS = {path.stem: yaml.safe_load(path.read_text()) for path in CONF.glob("*.yaml")}
SHAPES = {"layer.weight": (17, 5), "layer.bias": (5,), "scale": (), "none": (0, 3)}


def build(name, **options):
    return make_aggregator(name, DEFAULTS[name] | options)


def draw(seed, shapes=SHAPES, dtype=torch.float32, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (torch.randn(shape, generator=generator) * scale).to(dtype)
        for name, shape in shapes.items()
    }


def draw_round(sites=5, seed=0, **how):
    """Return current, updates by site, and examples by site."""
    current = draw(seed, **how)
    updates, examples = {}, {}
    for k in range(sites):
        step = draw(1000 * seed + k + 1, **how)
        updates[f"site-{k}"] = {n: t + 0.3 * step[n] for n, t in current.items()}
        examples[f"site-{k}"] = 10 + 37 * k
    return current, updates, examples


def run_round(aggregator, current, updates, examples, order=None):
    aggregator.begin(current, examples)
    for site in order or updates:
        aggregator.add(site, updates[site], examples[site])
    return aggregator.finish()


def reply(update: Mapping[str, torch.Tensor], examples: int) -> Message:
    arrays = ArrayRecord({name: Array(tensor.numpy()) for name, tensor in update.items()})
    content = RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": examples})})
    asked = Message(RecordDict(), dst_node_id=1, message_type="train")
    return Message(content, reply_to=asked)


def flower_round(strategy, number, current, updates, examples):
    """Return what Flower's strategy makes of a round, as float64 arrays by name."""
    if isinstance(strategy, flower.FedAvgM):
        arrays = ArrayRecord({name: Array(tensor.numpy()) for name, tensor in current.items()})
        strategy.current_arrays = arrays
    elif hasattr(strategy, "current_arrays"):
        strategy.current_arrays = {name: tensor.numpy() for name, tensor in current.items()}
    replies = [reply(updates[site], examples[site]) for site in sorted(updates)]
    arrays, _ = strategy.aggregate_train(number, replies)
    return {name: array.numpy().astype(np.float64) for name, array in arrays.items()}


def assert_near(ours, reference, tolerance=1e-6):
    assert ours.keys() == reference.keys()
    for name, tensor in ours.items():
        expected = torch.as_tensor(np.asarray(reference[name]))
        torch.testing.assert_close(
            tensor.double(), expected.double(), rtol=tolerance, atol=tolerance
        )


def assert_same_bits(left, right):
    assert left.keys() == right.keys()
    for name in left:
        assert left[name].dtype == right[name].dtype
        assert torch.equal(left[name], right[name]), name
