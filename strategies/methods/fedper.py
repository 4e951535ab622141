"""FedPer: the body is averaged, the head stays at the site."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from strategies.method import Groups, Method, with_rest_in


@dataclass(frozen=True)
class FedPer(Method):
    """Arivazhagan et al. 2019 (arXiv:1912.00818).

    Parameters
    ----------
    personal : tuple of str
        The entries of the personal group. The paper tries the head alone, and with blocks before it.
    """

    personal: tuple[str, ...]

    name = "fedper"

    def groups(self, configured: Groups, model: nn.Module) -> Groups:
        """Put ``personal`` into that group and the rest into ``common``."""
        del model
        return with_rest_in(configured, "common", personal=self.personal)
