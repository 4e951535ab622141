"""The proximal term of FedProx, for one model by autograd and for many by its own gradient."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from models.training.stacked_optimizers import row_blocks


@dataclass(frozen=True)
class Proximal:
    """``mu / 2 * ||w - received||^2`` (Li et al. 2020, definition 2).

    Parameters
    ----------
    mu : float
        The weight, above 0.
    """

    mu: float

    def __call__(self, own: Mapping[str, Tensor], received: Mapping[str, Tensor]) -> Tensor:
        """Return the term, a scalar, of the parameters of one model."""
        # Squared, as in the paper: some implementations leave the norm as it is.
        squared = [torch.sum((w - received[name]) ** 2) for name, w in own.items()]
        return 0.5 * self.mu * torch.stack(squared).sum()

    @torch.no_grad()
    def add_to(
        self,
        gradients: Mapping[str, Tensor],
        own: Mapping[str, Tensor],
        received: Mapping[str, Tensor],
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Return the gradients of m models with the term's own in them, and the term of each, ``(m,)``.

        Parameters
        ----------
        gradients : mapping of str to Tensor
            ``(m, ...)``, which are changed in place where nobody else has their memory; a parameter
            that the loss does not depend on has none.
        own, received : mapping of str to Tensor
            The parameters now and as they were received, ``(m, ...)``, of the same names.
        """
        first = next(iter(own.values()))
        squared = torch.zeros(len(first), device=first.device)
        found = dict(gradients)
        taken = Counter(gradient.data_ptr() for gradient in gradients.values())
        for name, now in own.items():
            gradient = gradients.get(name)
            if gradient is None:
                gradient = torch.zeros_like(now)
            elif not gradient.is_contiguous() or taken[gradient.data_ptr()] > 1:
                gradient = gradient.clone(memory_format=torch.contiguous_format)
            for rows in row_blocks(now):
                part = now[rows] - received[name][rows]
                squared[rows] += torch.linalg.vector_norm(part.flatten(1), dim=1) ** 2
                gradient[rows].add_(part, alpha=self.mu)
            found[name] = gradient
        return found, 0.5 * self.mu * squared
