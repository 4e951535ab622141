"""Sums and counts of each class or label at a site, of which means over any sites can be made."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from strategies.aggregators.class_means import COUNTS, SUMS, means_of
from strategies.site_round import SiteRound

__all__ = ["COUNTS", "SUMS", "ClassSums", "means_of", "membership", "note_class_sums"]


class ClassSums(nn.Module):
    """For each class the sum of some vectors and their number, as buffers that are exchanged.

    Both are divided by the examples of the site. A mean over sites that is weighted by examples is
    then the sum over all their examples, divided by the number of these; and the ratio of the two
    is the mean of the class, whichever sites have it.
    """

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.register_buffer("sums", torch.zeros(classes, width))
        self.register_buffer("counts", torch.zeros(classes))


def membership(labels: Tensor, classes: int) -> Tensor:
    """Return which classes each example has: float32 ``(n, classes)`` of 0 and 1.

    Parameters
    ----------
    labels : Tensor
        Class indices ``(n,)``, or labels ``(n, classes)``, of which those count that are present: NaN
        is not.
    classes : int
        Their number.
    """
    if labels.dim() == 1:
        return functional.one_hot(labels, classes).float()
    return (labels == 1).float()


@torch.no_grad()
def note_class_sums(site: SiteRound, network: Callable[[Tensor], Tensor]) -> None:
    """Put what the site has of each class into the buffers of `ClassSums`, its ``extras``.

    Parameters
    ----------
    site : SiteRound
        The site; its model is put into eval mode.
    network : callable
        From a batch of inputs to the vectors, ``(b, width)``.
    """
    site.model.eval()
    sums, counts = site.extras.get_buffer("sums"), site.extras.get_buffer("counts")
    total = torch.zeros_like(sums, dtype=torch.float64)
    number = torch.zeros_like(counts, dtype=torch.float64)
    examples, settings = len(site.train), site.settings
    size = max(settings.config.batch_size // settings.micro_batches, 1)
    for start in range(0, examples, size):
        rows = np.arange(start, min(start + size, examples))
        labels = torch.from_numpy(site.train.labels[rows]).to(site.device)
        with torch.autocast(site.device.type, torch.bfloat16, enabled=settings.autocast):
            vectors = network(site.train.inputs.batch(rows).to(site.device))
        has = membership(labels, len(counts)).double()
        total += has.T @ vectors.double()
        number += has.sum(0)
    sums.copy_(total / examples)
    counts.copy_(number / examples)
