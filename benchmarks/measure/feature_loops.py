"""Training over the outputs of the frozen layers, computed once, as a skilled user writes it."""

from __future__ import annotations

import logging
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from fedstrata.protocol.plan import FitConfig
from models.training.data import Split
from models.training.loop import batches

AT_ONCE = 256  # pictures that pass the frozen layers together


def has_lightning() -> bool:
    """Return whether Lightning is installed in this environment."""
    return find_spec("lightning") is not None


def load_lightning() -> Any:
    """Import Lightning, which takes seconds, and silence it."""
    import lightning

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    return lightning


@torch.no_grad()
def features_of(prefix: nn.Module, split: Split, device: torch.device) -> TensorDataset:
    """Return the outputs of ``prefix`` and the labels, in memory, on the device."""
    rows = np.split(np.arange(len(split)), range(AT_ONCE, len(split), AT_ONCE))
    outputs = [prefix(split.inputs.batch(part).to(device)) for part in rows]
    return TensorDataset(torch.cat(outputs), torch.from_numpy(split.labels).to(device))


def save_features(features: TensorDataset, path: Path) -> None:
    """Keep the features in a file."""
    torch.save(features.tensors, path)


def load_features(path: Path, device: torch.device) -> TensorDataset:
    """Return the features that `save_features` kept."""
    return TensorDataset(*torch.load(path, map_location=device, weights_only=True))


def make_sgd(tail: nn.Module, config: FitConfig) -> torch.optim.SGD:
    """Return the optimizer of one round."""
    chosen = config.optimizer
    return torch.optim.SGD(
        [each for each in tail.parameters() if each.requires_grad],
        lr=chosen.lr,
        momentum=chosen.momentum,
        weight_decay=chosen.weight_decay,
    )


def plain_round(tail: nn.Module, data: TensorDataset, config: FitConfig, number: int) -> None:
    """Train one round by indexing the tensors of all features: ours has the same batches."""
    features, labels = data.tensors
    optimizer = make_sgd(tail, config)
    for indices in batches(len(labels), config, np.random.default_rng(number)):
        rows = torch.from_numpy(indices).to(features.device)
        optimizer.zero_grad()
        loss = functional.cross_entropy(tail(features[rows]), labels[rows])
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def loader_round(tail: nn.Module, data: TensorDataset, config: FitConfig, number: int) -> None:
    """Train one round from a DataLoader in this process, over the same batches."""
    order = batches(len(data), config, np.random.default_rng(number))
    loader = DataLoader(data, batch_sampler=[indices.tolist() for indices in order])
    optimizer = make_sgd(tail, config)
    for features, labels in loader:
        optimizer.zero_grad()
        loss = functional.cross_entropy(tail(features), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def lightning_round(tail: nn.Module, data: TensorDataset, config: FitConfig, number: int) -> None:
    """Train one round with Lightning's Trainer, which shuffles by itself and logs nothing."""
    lightning = load_lightning()

    class Tail(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.tail = tail

        def training_step(self, batch: list[Tensor], _: int) -> Tensor:
            return functional.cross_entropy(self.tail(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return make_sgd(self.tail, config)

    trainer: Any = lightning.Trainer(
        max_epochs=config.epochs,
        accelerator="gpu" if data.tensors[0].is_cuda else "cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    order = torch.Generator().manual_seed(number)
    trainer.fit(Tail(), DataLoader(data, config.batch_size, shuffle=True, generator=order))
