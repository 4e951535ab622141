"""Small model files for the tests: a network drawn at random, with its card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import nn

from fedstrata.protocol.task_kinds import TaskKind
from models.model_card import ModelCard, Network
from models.model_file import write_model
from models.networks import build
from models.preprocessing import Pictures

PICTURES = Pictures(28, 3, (0.5, 0.4, 0.3), (0.25, 0.2, 0.1))
CARD = ModelCard(
    state="last",
    network=Network("small_cnn", (3, 28, 28), (8,)),
    task="animal",
    outputs=("cat", "dog"),
    kind=TaskKind(),
    preprocessing=PICTURES,
    groups={"common": 12},
    method="layers",
    run="march",
    site="north",
    round=3,
    seed=0,
    examples={"train": 20, "validation": 5, "test": 7},
)


def card(**changes: Any) -> ModelCard:
    """Return `CARD` with changes."""
    return msgspec.structs.replace(CARD, **changes)


def network_for(described: ModelCard, seed: int = 0) -> nn.Sequential:
    """Return a network as the card says, drawn at random, in eval mode."""
    network = described.network
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = build(
            network.name,
            input_shape=network.input_shape,
            classes=len(described.outputs),
            head=list(network.head),
            dropout=network.dropout,
            **{k: list(v) if isinstance(v, tuple) else v for k, v in network.options.items()},
        )
        for name, buffer in made.named_buffers():
            if name.endswith("running_var"):  # BatchNorm as after training: not the identity
                buffer.uniform_(0.5, 2.0)
    return made.eval()


def written(path: Path, described: ModelCard = CARD, seed: int = 0) -> nn.Sequential:
    """Write a model file; return the network that is in it."""
    network = network_for(described, seed)
    write_model(path, network.state_dict(), described)
    return network
