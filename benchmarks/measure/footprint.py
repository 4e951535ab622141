"""What training a model costs a site: bytes of weights, of optimiser, of activations, on the wire."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from models import freezing
from models.freezing import set_train_mode
from models.training.data import SiteData
from strategies.config import Config, plan_for
from strategies.methods import make_method
from strategies.partitioned_model import build_partitioned


@dataclass(frozen=True)
class Footprint:
    """Bytes at one site.

    Parameters
    ----------
    parameters : int
        All tensors of the model, number of elements.
    trained : int
        Elements that are trained.
    weights, optimizer, activations : int
        Bytes of the model; of gradients and momentum; of what one step keeps for its backward
        pass beyond the weights, features of the frozen prefix being made once.
    sent : int
        Bytes that leave the site in a round.
    """

    parameters: int
    trained: int
    weights: int
    optimizer: int
    activations: int
    sent: int


def footprint(config: Config, data: SiteData) -> Footprint:
    """Return what ``config`` costs a site with ``data``, measured on one step of the real network."""
    plan = plan_for(config, federation="footprint", weights="")
    partitioned = build_partitioned(
        plan,
        make_method(plan.method),
        input_shape=data.input_shape,
        classes=len(data.classes),
    )
    frozen, tail = freezing.split_at(partitioned.network, partitioned.cut)
    set_train_mode(partitioned.network, partitioned.partition)
    batch = min(config.train.batch_size, len(data.train))
    inputs = data.train.inputs.batch(torch.arange(batch).numpy())
    with torch.no_grad():
        features = frozen(inputs)
    # A weight that a step saves is no activation, and a tensor that it saves twice is stored once.
    own = {tensor.data_ptr() for tensor in partitioned.model.state_dict().values()}
    saved: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in own:
            saved[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = tail(features).sum()
    del loss
    trained = [p for p in partitioned.model.parameters() if p.requires_grad]
    tensors = partitioned.model.state_dict().values()
    partition = partitioned.partition
    groups = partition.exchanged_groups()
    return Footprint(
        parameters=sum(tensor.numel() for tensor in tensors),
        trained=sum(p.numel() for p in trained),
        weights=sum(tensor.nbytes for tensor in tensors),
        optimizer=sum(2 * p.nbytes for p in trained),
        activations=sum(saved.values()),
        sent=sum(spec.nbytes for group in groups for spec in partition.schema(group).values()),
    )
