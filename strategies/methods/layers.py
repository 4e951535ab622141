"""The groups as configured, each site's own training, nothing else."""

from __future__ import annotations

from dataclasses import dataclass

from strategies.method import Method


@dataclass(frozen=True)
class Layers(Method):
    """Equations (1) and (2) of the paper: common layers over all sites, task layers over a task's."""

    name = "layers"
