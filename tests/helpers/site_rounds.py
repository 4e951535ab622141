"""A round of a method at a tiny site, and the same network in numpy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedstrata.protocol.plan import FitConfig, OptimizerConfig
from models.groups import partition_tensors
from models.networks import build
from models.training.loop import FitSettings
from strategies.method import Made, Method
from strategies.partitioned_model import ModelWithExtras, PartitionedModel
from strategies.site_round import SiteRound
from tests.helpers.method_rounds import LR, Parameters, round_over

Weights = Parameters
FULL = 1000  # a batch of all examples


def config_of(**changes: Any) -> FitConfig:
    """Return plain SGD in batches of all examples, for one epoch, with ``changes``."""
    optimizer = OptimizerConfig("sgd", lr=LR, momentum=changes.pop("momentum", 0.0), weight_decay=0)
    chosen = {"epochs": 1, "steps": None, "batch_size": FULL, "clip": None, "augment": "none"}
    return FitConfig(optimizer=optimizer, **{**chosen, **changes})


def tiny_round(
    method: Method,
    seed: int = 0,
    *,
    examples: int = 8,
    start: Mapping[str, Tensor] | None = None,
    memory: Mapping[str, Tensor] | None = None,
    groups: Mapping[str, list[str]] | None = None,
    model_name: str = "mlp",
    **changes: Any,
) -> SiteRound:
    """Return a round over a network of 3 inputs, 4 hidden units and 2 classes.

    Parameters
    ----------
    method : Method
        Makes the partition, and modules of its own.
    seed : int
        Of the data and the batches; the start weights are the same for all.
    examples : int
        In the training data.
    start : mapping of str to Tensor, optional
        Put into the model, as if they had arrived.
    memory : mapping of str to Tensor, optional
        What the site has kept.
    groups : mapping, optional
        The configured groups; everything is common when omitted.
    model_name : str
        ``mlp``, or ``mlp_bn`` with a BatchNorm.
    **changes
        Of `config_of`.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build(model_name, input_shape=(3,), classes=2, head=[], hidden=[4])
    configured = groups or {"common": ["..."]}
    model = ModelWithExtras(network, method.extras(Made(network, (3,), 2, configured)))
    partition = partition_tensors(model, method.groups(configured, model), method.known_groups())
    built = PartitionedModel(model, network, partition, 0)
    built.load(start or {})
    return round_over(built, FitSettings(config_of(**changes)), seed, seed, examples, memory)


def weights_of(site: SiteRound) -> Weights:
    """Return the network's tensors as float64."""
    return {n: t.detach().double().numpy().copy() for n, t in site.network.state_dict().items()}


def close(site: SiteRound, expected: Mapping[str, NDArray[np.float64]]) -> bool:
    """Return whether the network's tensors are those expected, to 1e-6."""
    own = site.network.state_dict()
    return all(np.allclose(own[n].numpy(), each, atol=1e-6, rtol=0) for n, each in expected.items())


# -- the network in numpy --------------------------------------------------------------------------


def loss_and_gradients(
    w: Weights, inputs: NDArray[np.float64], labels: NDArray[np.int64]
) -> tuple[float, Weights]:
    """Return the mean cross-entropy of ``head.out(relu(fc1(x)))``, and its gradients."""
    before = inputs @ w["fc1.weight"].T + w["fc1.bias"]
    hidden = np.maximum(before, 0)
    outputs = hidden @ w["head.out.weight"].T + w["head.out.bias"]
    shares = np.exp(outputs - outputs.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    rows = np.arange(len(labels))
    loss = -np.log(shares[rows, labels]).mean()
    slope = shares.copy()
    slope[rows, labels] -= 1
    slope /= len(labels)
    below = (slope @ w["head.out.weight"]) * (before > 0)
    return float(loss), {
        "fc1.weight": below.T @ inputs,
        "fc1.bias": below.sum(0),
        "head.out.weight": slope.T @ hidden,
        "head.out.bias": slope.sum(0),
    }


def moved(w: Weights, direction: Weights, by: float) -> Weights:
    """Return ``w + by * direction``, for the tensors that ``direction`` has."""
    return {n: each + by * direction[n] if n in direction else each for n, each in w.items()}


def part(w: Weights, layer: str) -> Weights:
    """Return the tensors of a layer."""
    return {n: each for n, each in w.items() if n.startswith(f"{layer}.")}
