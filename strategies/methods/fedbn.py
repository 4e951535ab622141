"""FedBN: everything is averaged but the normalisation layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from strategies.method import Groups, Method, everything_else


@dataclass(frozen=True)
class FedBN(Method):
    """Li et al. 2021, algorithm 1 (arXiv:2102.07623).

    Parameters
    ----------
    types : tuple of str
        The torch.nn classes of normalisation layers; those that the model has become personal.
    """

    types: tuple[str, ...]

    name = "fedbn"

    def groups(self, configured: Groups) -> Groups:
        """Put the normalisation layers into ``personal``, frozen ones included, the rest common."""
        entries: Sequence[str] = [f"type:{name}" for name in self.types]
        return everything_else(configured, "common", personal=entries)
