"""Nobody exchanges anything: every site trains alone."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from strategies.method import Groups, Method, with_rest_in


@dataclass(frozen=True)
class Local(Method):
    """The baseline of every comparison."""

    name = "local"

    def groups(self, configured: Groups, model: nn.Module) -> Groups:
        """Put all but the frozen layers into ``personal``."""
        del model
        return with_rest_in(configured, "personal")

    def reject_reason(self, steps: int, planned: int) -> str | None:
        """Refuse nothing: there is nothing to average."""
        del steps, planned
        return None
