"""Outputs as angles to the corners of a simplex: a last layer that favors no class."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

CLOSEST = 1 - 1e-6  # a cosine; at 1 the angle has no slope


def unit(vectors: Tensor) -> Tensor:
    """Return rows of length 1; rows of 0 stay."""
    return functional.normalize(vectors.float(), dim=1)


def cosines(vectors: Tensor) -> Tensor:
    """Return the cosines of ``(b, classes)`` to the corners of a regular simplex, one for a class.

    The corners are the columns of ``sqrt(C / (C - 1)) * (I - 1/C)``, an equiangular tight frame.
    """
    rows, count = unit(vectors), vectors.shape[1]
    longer: float = (count / (count - 1)) ** 0.5
    return (rows - rows.mean(1, keepdim=True)) * longer


def with_margin(found: Tensor, labels: Tensor, margin: float) -> Tensor:
    """Return cosines whose angle to the label's corner is larger by ``margin``, in radians.

    Deng et al. 2019 (ArcFace, arXiv:1801.07698), eq. 3.
    """
    own = functional.one_hot(labels, found.shape[1]).bool()
    wider = torch.cos(torch.acos(found.clamp(-CLOSEST, CLOSEST)) + margin)
    return torch.where(own, wider, found)


class Angular(nn.Module):
    """A network whose outputs are ``scale`` times the cosines of what it gave."""

    def __init__(self, network: nn.Module, scale: float) -> None:
        super().__init__()
        self.network, self.scale = network, scale

    def forward(self, inputs: Tensor) -> Tensor:
        """Return ``(b, classes)``."""
        return self.scale * cosines(self.network(inputs))
