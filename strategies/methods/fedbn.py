"""FedBN: all layers are averaged except normalization layers, which stay at the site."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from fedstrata.support.errors import UserError
from models.groups import partition_tensors
from strategies.method import Groups, Method, with_rest_in


@dataclass(frozen=True)
class FedBN(Method):
    """Li et al. 2021, algorithm 1 (arXiv:2102.07623).

    Parameters
    ----------
    types : tuple of str
        The `torch.nn` classes that count as normalization.
    """

    types: tuple[str, ...]

    name = "fedbn"

    def groups(self, configured: Groups, model: nn.Module) -> Groups:
        """Put normalization layers that are not frozen into ``personal``, the rest into ``common``."""
        # By class, not by name: the BatchNorm of torchvision's VGG is called features.1.
        frozen = set(
            partition_tensors(model, with_rest_in(configured, "common")).names("pretrained")
        )
        layers = [
            path
            for path, module in model.named_modules()
            if type(module).__name__ in self.types
            and not any(f"{path}.{name}" in frozen for name in module.state_dict())
        ]
        if not layers:
            raise UserError(
                f"method fedbn: the model has no layer of type {', '.join(self.types)} outside "
                "the frozen ones; use a model with normalization, or method=fedavg"
            )
        return with_rest_in(configured, "common", personal=layers)
