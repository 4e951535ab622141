"""The configuration of an optimiser, wherever something is trained."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class OptimizerConfig:
    """What steps the trained tensors: ``sgd``, ``adam`` or ``adamw``; ``momentum`` is sgd's."""

    name: str
    lr: float
    momentum: float
    weight_decay: float
