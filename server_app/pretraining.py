"""Our own pre-training: a network learns from public pictures that no site holds."""

from __future__ import annotations

import hashlib
import inspect
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedstrata import drawn_faces
from fedstrata.protocol.plan import FitConfig, OptimizerConfig
from fedstrata.support.errors import UserError
from fedstrata.support.seeds import derive_seed
from models import networks
from models.training import loop
from models.training.data import ArrayInputs, Split
from models.training.losses import BinaryCrossEntropy, CrossEntropy

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
PIECE = 25  # steps between two settings of the learning rate
RECIPE = 1  # raise it when the same settings would give other weights
TARGETS = ("attributes", "identity", "looks")


@dataclass(frozen=True)
class Pretraining:
    """The settings of ``weights=central``; see conf/weights/central.yaml."""

    source: str
    data: str
    target: str
    examples: int
    identities: int
    cameras: int
    size: int
    epochs: int
    batch_size: int
    optimizer: OptimizerConfig

    def __post_init__(self) -> None:
        for key, choices in (("data", tuple(PUBLIC)), ("target", TARGETS)):
            if getattr(self, key) not in choices:
                raise UserError(
                    f"weights.{key} {getattr(self, key)!r} does not exist; there is "
                    f"{', '.join(choices)}"
                )
        for key in ("examples", "identities", "cameras", "size", "epochs", "batch_size"):
            if getattr(self, key) < 1:
                raise UserError(f"weights.{key} must be at least 1, got {getattr(self, key)}")
        if self.examples < self.cameras:
            raise UserError(
                f"weights.examples={self.examples} leaves some of weights.cameras={self.cameras} "
                "without a picture: raise the first or lower the second"
            )
        if self.optimizer.name not in loop.OPTIMIZERS:
            raise UserError(
                f"weights.optimizer.name {self.optimizer.name!r} does not exist; there is "
                f"{', '.join(loop.OPTIMIZERS)}"
            )
        if not self.optimizer.lr > 0:
            raise UserError(f"weights.optimizer.lr must be greater than 0, got {self.optimizer.lr}")


def job_hash(settings: Pretraining, model: Mapping[str, Any], seed: int) -> str:
    """Return the hex SHA-256 of everything that decides the weights: settings, model, pictures."""
    settings_of_job = {
        "job": RECIPE,
        "settings": asdict(settings),
        "model": {key: value for key, value in model.items() if key != "head"},
        "seed": seed,
        "pictures": _source_hash(),
        "torch": str(torch.__version__),
    }
    return hashlib.sha256(json.dumps(settings_of_job, sort_keys=True).encode()).hexdigest()


def pretrain(
    settings: Pretraining,
    model: Mapping[str, Any],
    seed: int,
    *,
    device: torch.device,
    log: Callable[[str], None],
) -> dict[str, Tensor]:
    """Train a network of the plan's architecture on public data; return its body's tensors.

    Parameters
    ----------
    settings : Pretraining
        Data set, size and optimiser.
    model : mapping
        Configuration of the model; its head is left out, the output layer is one of identities.
    seed : int
        The run's seed.
    device : torch.device
        Where to train.
    log : callable
        Takes one line per epoch.

    Returns
    -------
    dict of str to Tensor
        float32 and integer tensors of everything but the head, on the CPU.
    """
    public = public_set(settings, seed)
    options = {key: value for key, value in model.items() if key not in ("name", "head")}
    generator = loop.seeded(derive_seed(seed, "pretraining"))
    network = networks.build(
        str(model["name"]),
        input_shape=tuple(public.split.inputs.batch(np.arange(1)).shape[1:]),
        classes=public.outputs,
        head=[],
        **options,
    ).to(device)
    state: loop.OptimizerState = {}
    steps = PIECE * math.ceil(settings.epochs * settings.examples / settings.batch_size / PIECE)
    for done in range(0, steps, PIECE):
        network.train()
        report = loop.fit(
            network,
            public.split,
            _settings(settings, done, steps, device, public.augment),
            trained=dict(network.named_parameters()),
            generator=generator,
            device=device,
            loss=public.loss,
            optimizer_state=state,
        )
        if done // PIECE % 3 == 2 or done + PIECE == steps:
            log(f"pre-training step {done + PIECE} of {steps}: loss {report.loss:.3f}")
    return {
        name: tensor.detach().cpu().clone()
        for name, tensor in network.state_dict().items()
        if not name.startswith("head.")
    }


@dataclass(frozen=True)
class PublicSet:
    """Public examples, the number of outputs that learn them, and how they are learned."""

    split: Split
    outputs: int
    loss: loop.Loss
    augment: str = "flip"


def public_set(settings: Pretraining, seed: int) -> PublicSet:
    """Return the public pictures of ``weights.data``, labelled for ``weights.target``."""
    return PUBLIC[settings.data](settings, seed)


def _drawn_faces(settings: Pretraining, seed: int) -> PublicSet:
    """Return drawn people 0 to ``identities - 1``, seen by ``cameras`` cameras of their own."""
    parts = []
    for number in range(settings.cameras):
        size = settings.examples // settings.cameras
        size += number < settings.examples % settings.cameras
        parts.append(
            drawn_faces.draw(
                size,
                seed=derive_seed(seed, "public", number),
                identities=min(settings.identities, size),
                camera=drawn_faces.Camera.random(derive_seed(seed, "public camera", number)),
                size=settings.size,
            )
        )
    inputs = ArrayInputs(np.concatenate([part.images for part in parts]), MEAN, STD)
    if settings.target == "identity":
        people = np.concatenate([part.identity for part in parts])
        names, labels = np.unique(people, return_inverse=True)
        split = Split(inputs, labels.astype(np.int64))
        return PublicSet(split, len(names), CrossEntropy())
    if settings.target == "looks":
        split = Split(inputs, np.concatenate([part.looks for part in parts]))
        # In a mirror, what is on the left would be on the right.
        return PublicSet(split, len(drawn_faces.LOOKS), BinaryCrossEntropy(), augment="none")
    asked = drawn_faces.ATTRIBUTES
    answers = [np.concatenate([part.labels[name] for part in parts]) for name in asked]
    split = Split(inputs, np.stack(answers, axis=1).astype(np.float32))
    return PublicSet(split, len(asked), BinaryCrossEntropy())


PUBLIC: Mapping[str, Callable[[Pretraining, int], PublicSet]] = {"drawn_faces": _drawn_faces}


def _settings(
    settings: Pretraining, done: int, steps: int, device: torch.device, augment: str
) -> loop.FitSettings:
    """Return the settings of the next piece: the rate falls along a cosine over all steps."""
    config = FitConfig(
        epochs=None,
        steps=PIECE,
        batch_size=settings.batch_size,
        optimizer=settings.optimizer,
        clip=5.0,
        augment=augment,
    )
    factor = loop.schedule_factor("cosine", done + 1, steps)
    return loop.FitSettings(config, factor, autocast=device.type == "cuda")


def _source_hash() -> str:
    """Return the hash of the program that draws the pictures."""
    package = inspect.getfile(drawn_faces)
    seen = hashlib.sha256()
    for path in sorted(Path(package).parent.glob("*.py")):
        seen.update(path.read_bytes())
    return seen.hexdigest()
