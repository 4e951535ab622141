"""The configured groups and plain local training."""

from __future__ import annotations

from dataclasses import dataclass

from strategies.method import Method


@dataclass(frozen=True)
class Layers(Method):
    """Common layers are averaged over all sites, task layers over the sites of a task.

    Equations (1) and (2) of "Multi-Task and Transfer Learning for Federated Learning Applications".
    """

    name = "layers"
