"""A small site of a simulation, opened in this process: plans, contexts, layers and orders for it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from client_app.context import SiteContext, checkpoint_path, open_site
from client_app.node_config import read_node_settings
from fedstrata.protocol.orders import CodedGroup, Order
from fedstrata.protocol.payload import encode
from fedstrata.protocol.plan import Plan
from models import weights
from models.networks import build
from server_app.compose import compose
from strategies.config import plan_for
from tests.helpers.runs import SMALL

FROZEN = [
    *SMALL,
    "groups.pretrained=[conv1,bn1,conv2,bn2]",
    "groups.common=[conv3,bn3]",
    "groups.task=[head.0]",
    "groups.personal=[head.out]",
]


def plan_of(*overrides: str, weights: str = "") -> Plan:
    """Return a plan of small drawn faces with all four layer groups."""
    return plan_for(compose("faces", [*FROZEN, *overrides]), federation="run-1", weights=weights)


def plan_with_checkpoint(home: Path) -> Plan:
    """Return the same plan with its pre-trained checkpoint in the cache below ``home``."""
    torch.manual_seed(3)
    network = build("small_cnn", input_shape=(3, 28, 28), classes=2, head=[8])
    body = {n: t for n, t in network.state_dict().items() if not n.startswith("head")}
    made = weights.content_hash(body)
    (home / "cache" / "weights").mkdir(parents=True)
    weights.save(checkpoint_path(home / "cache", made), body, {})
    return plan_of(weights=made)


def opened(plan: Plan, **node: object) -> SiteContext:
    """Return the first of two sites of a simulation, or one with more settings of its own."""
    settings = read_node_settings({"partition-id": 0, "num-partitions": 2, **node}, {})
    return open_site(settings, plan)


def received(context: SiteContext) -> dict[str, Tensor]:
    """Return the exchanged tensors that a run starts with."""
    own = context.partitioned.partition
    return {n: context.start[n] for g in own.exchanged_groups() for n in own.exchanged_names(g)}


def payloads(context: SiteContext) -> dict[str, bytes]:
    """Return the payload of each exchanged group that a run starts with."""
    own = context.partitioned.partition
    return {
        group: encode({name: context.start[name] for name in own.exchanged_names(group)})
        for group in own.exchanged_groups()
    }


def order(
    number: int,
    layers: Mapping[str, bytes] | None = None,
    coded: Mapping[str, CodedGroup] | None = None,
    taken: Mapping[str, int] | None = None,
) -> Order:
    """Return an order as a site reads it; its plan is not read again."""
    return Order("", number, dict(layers or {}), dict(coded or {}), dict(taken or {}))


def model_tensors(context: SiteContext) -> dict[str, Tensor]:
    """Return copies of all tensors of the site's model."""
    return context.partitioned.tensors(list(context.partitioned.model.state_dict()))
