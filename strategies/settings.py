"""From the configuration of training to the settings of one fit."""

from __future__ import annotations

from fedstrata.protocol.plan import TrainConfig
from models.training.loop import Settings


def settings_of(config: TrainConfig, *, factor: float, autocast: bool) -> Settings:
    """Return how to train now: the configured rate times ``factor``, in bfloat16 or not."""
    return Settings(
        epochs=config.epochs,
        steps=config.steps,
        batch_size=config.batch_size,
        optimizer=config.optimizer.name,
        lr=config.optimizer.lr * factor,
        momentum=config.optimizer.momentum,
        weight_decay=config.optimizer.weight_decay,
        clip=config.clip,
        augment=config.augment,
        autocast=autocast,
    )
