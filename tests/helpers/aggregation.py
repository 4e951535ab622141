"""Rounds of aggregation, drawn from a seed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from strategies.aggregators import Aggregator, make_aggregator

CONF = Path(__file__).parents[2] / "conf" / "aggregator"
DEFAULTS = {path.stem: yaml.safe_load(path.read_text()) for path in CONF.glob("*.yaml")}
SHAPES = {"layer.weight": (17, 5), "layer.bias": (5,), "scale": (), "none": (0, 3)}


def build(name: str, **options: Any) -> Aggregator:
    """Return an aggregator with the options of its file in conf/, some of them changed."""
    return make_aggregator(name, DEFAULTS[name] | options)


def draw(
    seed: int,
    shapes: Mapping[str, tuple[int, ...]] = SHAPES,
    dtype: torch.dtype = torch.float32,
    scale: float = 1.0,
) -> dict[str, Tensor]:
    """Return tensors drawn from a seed."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (torch.randn(shape, generator=generator) * scale).to(dtype)
        for name, shape in shapes.items()
    }


def draw_round(
    sites: int = 5, seed: int = 0, **how: Any
) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]], dict[str, int]]:
    """Return current, updates by site, and examples by site."""
    current = draw(seed, **how)
    updates, examples = {}, {}
    for k in range(sites):
        step = draw(1000 * seed + k + 1, **how)
        updates[f"site-{k}"] = {n: t + 0.3 * step[n] for n, t in current.items()}
        examples[f"site-{k}"] = 10 + 37 * k
    return current, updates, examples


def run_round(
    aggregator: Aggregator,
    current: Mapping[str, Tensor],
    updates: Mapping[str, Mapping[str, Tensor]],
    examples: Mapping[str, int],
    order: Iterable[str] | None = None,
) -> dict[str, Tensor] | None:
    """Return the state after one round, with the updates in ``order``."""
    aggregator.begin(current, examples)
    for site in order or updates:
        aggregator.add(site, updates[site], examples[site])
    return aggregator.finish()


def assert_same_bits(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> None:
    """Fail where two states are not equal, bit for bit."""
    assert left.keys() == right.keys()
    for name in left:
        assert left[name].dtype == right[name].dtype
        assert torch.equal(left[name], right[name]), name
