"""A run so small that it takes a second, and what is compared of two runs."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from models import weights

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
]


def states(output: Path, run: str) -> dict[str, Tensor]:
    """Return the tensors of a run's last checkpoint."""
    folder = sorted((output / run / "checkpoints").glob("round-*"))[-1]
    return weights.load(folder / "state.safetensors")[0]


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Return whether two sets of named tensors are equal, bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)
