"""One round of a method at a tiny site, and what numpy makes of the same: a loss and its gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedstrata.protocol.plan import FitConfig, OptimizerConfig, Plan
from models.training.data import ArrayInputs, Split
from models.training.loop import FitSettings
from models.training.losses import CrossEntropy
from strategies.aggregators import make_aggregator
from strategies.method import Method
from strategies.methods import make_method
from strategies.partitioned_model import PartitionedModel, build_partitioned
from strategies.site_round import SiteRound
from tests.helpers.plans import plan_of

FEATURES, HIDDEN, CLASSES, LR = 4, 3, 3, 0.1
Numbers = NDArray[np.float64]
Parameters = dict[str, Numbers]


def site_of(
    method: Method | Mapping[str, Any],
    seed: int = 0,
    *,
    examples: int = 6,
    start: Mapping[str, Tensor] | None = None,
    memory: Mapping[str, Tensor] | None = None,
    model: str = "mlp",
    **fit: Any,
) -> SiteRound:
    """Return a site that trains two steps of all its examples; its data are drawn from ``seed``.

    The model is flatten, fc1, relu1, head.out, with ``start`` loaded. ``fit`` changes how to train.
    """
    made = method if isinstance(method, Method) else make_method(method)
    built = build_partitioned(plan_with(model), made, input_shape=(FEATURES,), classes=CLASSES)
    built.load(start or {})
    options = {"steps": 2, "batch_size": 16, "momentum": 0.0, "weight_decay": 0.0, "clip": None}
    options |= fit
    optimizer = OptimizerConfig("sgd", LR, options.pop("momentum"), options.pop("weight_decay"))
    config = FitConfig(epochs=None, optimizer=optimizer, augment="none", **options)
    return round_over(built, FitSettings(config), seed, 1, examples, memory)


def round_over(
    built: PartitionedModel,
    settings: FitSettings,
    seed: int,
    order: int,
    examples: int,
    memory: Mapping[str, Tensor] | None,
) -> SiteRound:
    """Return a round over a model as it is; ``seed`` draws its data, ``order`` its batches."""
    own, first = built.partition, next(built.network.parameters())
    sent = [name for group in own.exchanged_groups() for name in own.exchanged_names(group)]
    classes = int(built.network.get_parameter("head.out.weight").shape[0])
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((examples, first.shape[1])).astype(np.float32)
    return SiteRound(
        model=built.model,
        network=built.network,
        tail=built.network,
        partition=own,
        received=built.tensors(sent),
        train=Split(ArrayInputs(values), rng.integers(0, classes, examples)),
        classes=classes,
        settings=settings,
        loss=CrossEntropy(),
        generator=np.random.default_rng(order),
        device=torch.device("cpu"),
        memory=dict(memory or {}),
        optimizer_state={},
        max_steps=None,
    )


@cache
def plan_with(model: str) -> Plan:
    """Return a plan for a tiny model."""
    options = f"model={model}", f"model.hidden=[{HIDDEN}]", "groups=all_common", "seed=3"
    return plan_of("har", *options)


def tensors_of(site: SiteRound) -> dict[str, Tensor]:
    """Return copies of all tensors of a site's model."""
    return {name: tensor.clone() for name, tensor in site.model.state_dict().items()}


def mean_of(method: Method, sites: list[SiteRound], group: str) -> dict[str, Tensor]:
    """Return what the server makes of the sites' tensors of a group."""
    aggregator = method.aggregator(group, lambda: make_aggregator("fedavg", {}))
    names = sites[0].partition.exchanged_names(group)
    everyone = {str(i): len(site.train) for i, site in enumerate(sites)}
    aggregator.begin({name: sites[0].received[name] for name in names}, everyone)
    for key, site in zip(everyone, sites, strict=True):
        aggregator.add(
            key, {n: t for n, t in tensors_of(site).items() if n in names}, everyone[key]
        )
    made = aggregator.finish()
    assert made is not None
    return made


# -- numpy alone from here on ------------------------------------------------------------------------


def parameters(tensors: Mapping[str, Tensor]) -> Parameters:
    """Return tensors as float64 arrays."""
    return {name: tensor.double().numpy().copy() for name, tensor in tensors.items()}


def data_of(site: SiteRound) -> tuple[Numbers, NDArray[np.int64]]:
    """Return inputs and labels."""
    inputs = site.train.inputs
    assert isinstance(inputs, ArrayInputs)
    return np.asarray(inputs.values, dtype=np.float64), site.train.labels


def linear(x: Numbers, p: Parameters, name: str) -> Numbers:
    """Return a linear layer of ``x``."""
    return np.asarray(x @ p[f"{name}.weight"].T + p[f"{name}.bias"])


def features(x: Numbers, p: Parameters) -> Numbers:
    """Return what enters head.out."""
    return np.maximum(linear(x, p, "fc1"), 0)


def layer_norm(x: Numbers, p: Parameters, name: str) -> Numbers:
    """Return a layer normalization of ``x`` over its last axis."""
    centered = x - x.mean(-1, keepdims=True)
    scaled = centered / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return np.asarray(scaled * p[f"{name}.weight"] + p[f"{name}.bias"])


def cross_entropy(outputs: Numbers, labels: NDArray[np.int64]) -> float:
    """Return the mean cross-entropy."""
    return float(-log_chances(outputs)[np.arange(len(labels)), labels].mean())


def log_chances(outputs: Numbers) -> Numbers:
    """Return the logarithms of the chances of classes."""
    shifted = outputs - outputs.max(1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(1, keepdims=True)))


def divergence(teacher: Numbers, learner: Numbers) -> float:
    """Return KL(teacher || learner): the sum over the classes and the mean over the examples."""
    q, p = log_chances(teacher), log_chances(learner)
    return float((np.exp(q) * (q - p)).sum(1).mean())


def gradient(loss: Callable[[Parameters], float], at: Parameters) -> Parameters:
    """Return the gradient by central differences."""
    found = {name: np.zeros_like(value) for name, value in at.items()}
    for name, value in at.items():
        for index in np.ndindex(value.shape):
            kept, both = value[index], []
            for step in (1e-6, -1e-6):
                value[index] = kept + step
                both.append(loss(at))
            value[index] = kept
            found[name][index] = (both[0] - both[1]) / 2e-6
    return found


def descended(
    loss: Callable[[Parameters], float], start: Parameters, steps: int = 2, lr: float = LR
) -> Parameters:
    """Return the parameters after steps of gradient descent."""
    at = {name: value.copy() for name, value in start.items()}
    for _ in range(steps):
        slope = gradient(loss, at)
        at = {name: value - lr * slope[name] for name, value in at.items()}
    return at


def weighted(of_each: list[Parameters], examples: list[int]) -> Parameters:
    """Return the mean over the sites, weighted by examples."""
    total = sum(examples)
    return {
        name: sum(n / total * each[name] for n, each in zip(examples, of_each, strict=True))  # type: ignore[misc]
        for name in of_each[0]
    }


def assert_close(
    found: Mapping[str, Tensor], expected: Parameters, tolerance: float = 1e-6
) -> None:
    """Fail unless all expected arrays are found, to ``tolerance``."""
    for name, value in expected.items():
        difference = np.abs(found[name].detach().double().numpy() - value).max()
        assert difference <= tolerance, f"{name} differs by {difference}"
