"""Local training: nothing is exchanged, every site trains alone."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from strategies.method import Groups, Method, with_rest_in


@dataclass(frozen=True)
class Local(Method):
    """The baseline: what a site reaches without the federation."""

    name = "local"

    def groups(self, configured: Groups, model: nn.Module) -> Groups:
        """Put all layers that are not frozen into ``personal``."""
        del model
        return with_rest_in(configured, "personal")

    def reject_reason(self, steps: int, planned: int) -> str | None:
        """Accept everything: there is nothing to average."""
        del steps, planned
        return None
