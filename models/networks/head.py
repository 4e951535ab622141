"""The head: hidden linear layers with ReLU, then one output per class."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from fedstrata.support.errors import UserError
from models.networks.body import linear, widths


def head(
    in_features: int, hidden: Sequence[int], classes: int, dropout: float = 0.0
) -> nn.Sequential:
    """Return a classifier: features, float32 ``(b, in_features)``, to logits ``(b, classes)``.

    Tensors are named ``0.weight``, ``1.weight``, ..., ``out.weight`` (and ``.bias``). Hidden layer
    ``i`` is followed by ``relu{i}`` and, where ``dropout`` is not 0, by ``drop{i}``. The paper's
    4096-2048-1024 is ``hidden=[4096, 2048, 1024]``; without hidden layers there is ``out`` alone.

    Raises
    ------
    UserError
        For a width or number of classes below 1, a layer that `linear` refuses, or a ``dropout``
        outside [0, 1).
    """
    if not 0 <= dropout < 1:
        raise UserError(f"dropout must be at least 0 and below 1, not {dropout!r}")
    layers = nn.Sequential()
    for index, width in enumerate(widths("head", hidden)):
        layers.add_module(str(index), linear(in_features, width))
        layers.add_module(f"relu{index}", nn.ReLU(inplace=True))
        if dropout:
            layers.add_module(f"drop{index}", nn.Dropout(dropout))
        in_features = width
    (outputs,) = widths("classes", [classes])
    layers.add_module("out", linear(in_features, outputs))
    return layers
