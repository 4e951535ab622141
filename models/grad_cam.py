"""Grad-CAM (Selvaraju et al., arXiv 1610.02391): where in a picture a network saw what it says."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedstrata.support.errors import UserError

LEAST = 4  # values of a map in height and width: one value says nothing of where
_POOLING = (nn.AdaptiveAvgPool2d, nn.MaxPool2d, nn.AvgPool2d)


def last_maps(network: nn.Sequential, example: Tensor) -> int:
    """Return after how many steps of ``network`` the last useful feature maps come.

    These are at least `LEAST` values high and wide, or else as large as there are; pooling at the
    end is left out.

    Raises
    ------
    UserError
        The network has none: it is not one of pictures, or its pictures are too small.
    """
    sizes: dict[int, int] = {}
    values = example
    with torch.no_grad():
        for number, step in enumerate(network, start=1):
            values = step(values)
            if values.dim() == 4 and not isinstance(step, _POOLING):
                sizes[number] = min(int(values.shape[2]), int(values.shape[3]), LEAST)
    if max(sizes.values(), default=1) == 1:
        raise UserError("heat maps are of pictures, and this network has no feature maps of them")
    return max(sizes, key=lambda number: (sizes[number], number))


def heat_maps(network: nn.Sequential, inputs: Tensor, outputs: Sequence[int]) -> Tensor:
    """Return where each input speaks for its output: float32 ``(n, height, width)``, 0 to 1.

    Parameters
    ----------
    network : nn.Sequential
        In eval mode.
    inputs : Tensor
        float32 ``(n, channels, height, width)``, as the network takes them.
    outputs : sequence of int
        Which output of each is explained.
    """
    steps = last_maps(network, inputs[:1])
    with torch.no_grad():
        maps = network[:steps](inputs)
    maps = maps.detach().requires_grad_()
    # A copy: the next step may change its input in place.
    logits = network[steps:](maps.clone())
    chosen = logits[torch.arange(len(inputs)), torch.tensor(outputs)].sum()
    (gradient,) = torch.autograd.grad(chosen, maps)
    heat = functional.relu((gradient.mean((2, 3), keepdim=True) * maps).sum(1, keepdim=True))
    size = (int(inputs.shape[2]), int(inputs.shape[3]))
    heat = functional.interpolate(heat, size, mode="bilinear", align_corners=False)[:, 0]
    most = heat.amax((1, 2), keepdim=True)
    return (heat / most.clamp(min=torch.finfo(heat.dtype).tiny)).detach()
