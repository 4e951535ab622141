"""How good a model is on a split: outputs over batches; loss, accuracies and AUROC of classes."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from models.training.data import Inputs, Split


@torch.no_grad()
def logits_of(
    network: nn.Module, inputs: Inputs, *, batch_size: int, device: torch.device, autocast: bool
) -> Tensor:
    """Return the network's outputs for all ``inputs`` in order: float32 on the CPU."""
    network.eval()
    parts = []
    for start in range(0, len(inputs), batch_size):
        indices = np.arange(start, min(start + batch_size, len(inputs)))
        chunk = inputs.batch(indices).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            parts.append(network(chunk).float().cpu())
    return torch.cat(parts)


def evaluate(
    network: nn.Module,
    split: Split,
    *,
    measure: Callable[[Tensor, Tensor], dict[str, float | None]],
    batch_size: int,
    device: torch.device,
    autocast: bool,
) -> dict[str, float | None]:
    """Return what ``measure`` says of ``network`` on ``split``, such as `Objective.measure`.

    Leaves the network in eval mode.
    """
    outputs = logits_of(
        network, split.inputs, batch_size=batch_size, device=device, autocast=autocast
    )
    return measure(outputs, torch.from_numpy(split.labels))


def metrics(logits: Tensor, labels: Tensor, classes: int) -> dict[str, float | None]:
    """Return the metrics of ``logits`` (float32, ``(n, classes)``) against ``labels`` (int64, ``(n,)``).

    ``balanced_accuracy`` is the mean recall over the classes that occur. ``auroc`` is the mean area
    under their one-against-rest curves, or None where only one class occurs.
    """
    predicted = logits.argmax(1)
    counts = torch.bincount(labels, minlength=classes)
    hits = torch.bincount(labels[predicted == labels], minlength=classes)
    occurs = counts > 0
    auroc: float | None = None
    if int(occurs.sum()) > 1:
        auroc = float(_areas(logits.softmax(1), labels)[occurs].mean())
    return {
        "examples": float(len(labels)),
        # In float64: a long float32 sum loses digits, and other ones with another number of threads.
        "loss": float(functional.cross_entropy(logits.double(), labels)),
        "accuracy": int(hits.sum()) / len(labels),
        "balanced_accuracy": float((hits[occurs].double() / counts[occurs]).mean()),
        "auroc": auroc,
    }


def _areas(scores: Tensor, labels: Tensor) -> Tensor:
    """Return each class's area under the ROC curve against the rest: float64, ``(classes,)``.

    The area is the Mann-Whitney statistic over the product of the two counts (Hanley and McNeil
    1982). Equal scores count a half, and halves add up exactly. A class without examples, or with
    all of them, is NaN.

    Parameters
    ----------
    scores : Tensor
        float, ``(n, classes)``.
    labels : Tensor
        int64, ``(n,)``.
    """
    columns = scores.T.contiguous()
    ascending = columns.sort(dim=1).values
    areas = []
    for label, (column, ordered) in enumerate(zip(columns, ascending, strict=True)):
        own = column[labels == label]
        below = torch.searchsorted(ordered, own)
        up_to = torch.searchsorted(ordered, own, right=True)
        # ``ordered`` has the class's own examples too: their pairs with one another are taken off.
        wins = float((below + up_to).sum()) / 2 - len(own) ** 2 / 2
        pairs = len(own) * (len(column) - len(own))
        areas.append(wins / pairs if pairs else math.nan)
    return torch.tensor(areas, dtype=torch.float64)
