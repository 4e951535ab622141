"""FedAvg: all layers that are not frozen are averaged over all sites, weighted by examples."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from strategies.method import Groups, Method, with_rest_in


@dataclass(frozen=True)
class FedAvg(Method):
    """McMahan et al. 2017, algorithm 1 (arXiv:1602.05629)."""

    name = "fedavg"

    def groups(self, configured: Groups, model: nn.Module) -> Groups:
        """Put all layers that are not frozen into ``common``."""
        del model
        return with_rest_in(configured, "common")
