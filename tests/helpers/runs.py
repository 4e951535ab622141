"""A run so small that it takes a second, and what is compared of two runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models import weights
from tests.loopback import LoopbackGrid

DOCS = Path(__file__).resolve().parents[2] / "docs"

SMALL = [
    "model=small_cnn",
    "model.head=[8]",
    "weights=none",
    "groups=all_common",
    "data.size=28",
    "data.train=24",
    "data.validation=6",
    "data.test=8",
    "data.identities=6",
    "data.tasks=[gender,pose]",
    "train.batch_size=8",
    "train.epochs=1",
    "strategy.rounds=2",
    "strategy.poll=0.01",
    "baselines.alone=false",
    "baselines.pooled=false",
]
GROUPS = ["groups=body_common_head_task", "groups.personal=[head.out]", "groups.task=[head.0]"]
PLAIN = [*SMALL, *GROUPS]


def states(output: Path, run: str) -> dict[str, Tensor]:
    """Return the tensors of a run's last checkpoint."""
    folder = sorted((output / run / "checkpoints").glob("round-*"))[-1]
    return weights.load(folder / "state.safetensors")[0]


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Return whether two sets of named tensors are equal, bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


class Crash(RuntimeError):
    """Stands for the server's process dying."""


def without_times(results: dict[str, Any]) -> Any:
    """Return results without what differs between two equal runs.

    Those are names, seconds, and what was trained before.
    """

    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                k: strip(v)
                for k, v in value.items()
                if k not in ("seconds", "run", "federation", "reused")
            }
        return [strip(v) for v in value] if isinstance(value, list) else value

    return strip(results)


def grid_of(output: Path, tamper: Any = None, sites: int = 4) -> LoopbackGrid:
    """Return a loopback grid of simulated sites, whose nodes have the ids from 100 on."""
    nodes = {100 + i: {"partition-id": i, "num-partitions": sites} for i in range(sites)}
    grid = LoopbackGrid(nodes, {"output-dir": str(output)})
    if tamper:
        grid.tamper = tamper
    return grid
