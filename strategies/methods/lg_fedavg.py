"""LG-FedAvg: the head is averaged, the body stays at the site."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from strategies.method import Groups, Method


@dataclass(frozen=True)
class LGFedAvg(Method):
    """Liang et al. 2020 (arXiv:2001.01523).

    Parameters
    ----------
    common : tuple of str
        The entries of the common group, which is the paper's global part.
    """

    common: tuple[str, ...]

    name = "lg_fedavg"

    def groups(self, configured: Groups, model: nn.Module) -> Groups:
        """Put ``common`` into that group and the rest into ``personal``."""
        del model
        frozen = list(configured.get("pretrained", []))
        return {"pretrained": frozen, "common": list(self.common), "personal": ["..."]}
