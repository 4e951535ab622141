"""Our own pre-training: a network learns, on public pictures, who is on them."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import models.drawn_faces
from models import networks, training
from models.data import ArrayInputs, Split
from models.errors import UserError, nearest
from models.seeds import derive_seed

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
RECIPE = 1  # raise it when the same settings would give other weights


@dataclass(frozen=True)
class Pretraining:
    """The settings of ``weights=central``; see conf/weights/central.yaml."""

    source: str
    data: str
    examples: int
    identities: int
    size: int
    epochs: int
    batch_size: int
    lr: float
    momentum: float
    weight_decay: float


def recipe_hash(settings: Pretraining, model: Mapping[str, Any], seed: int) -> str:
    """Return the hex SHA-256 of everything that decides the weights: settings, model, pictures."""
    told = {
        "recipe": RECIPE,
        "settings": asdict(settings),
        "model": {key: value for key, value in model.items() if key != "head"},
        "seed": seed,
        "pictures": _source_hash(),
        "torch": str(torch.__version__),
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


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
    split = public_split(settings, seed)
    classes = int(split.labels.max()) + 1
    options = {key: value for key, value in model.items() if key not in ("name", "head")}
    generator, _ = training.seeded(derive_seed(seed, "pretraining"))
    network = networks.build(
        str(model["name"]),
        input_shape=tuple(split.inputs.batch(np.arange(1)).shape[1:]),
        classes=classes,
        head=[],
        **options,
    ).to(device)
    state: training.OptimizerState = {}
    for epoch in range(1, settings.epochs + 1):
        network.train()
        report = training.fit(
            network,
            split,
            _settings(settings, epoch, device),
            trained=dict(network.named_parameters()),
            generator=generator,
            device=device,
            optimizer_state=state,
        )
        log(f"pre-training epoch {epoch}/{settings.epochs}: loss {report.loss:.3f}")
    return {
        name: tensor.detach().cpu().clone()
        for name, tensor in network.state_dict().items()
        if not name.startswith("head.")
    }


def public_split(settings: Pretraining, seed: int) -> Split:
    """Return public pictures labelled with who is on them; no site holds any of these people."""
    if settings.data not in PUBLIC:
        raise UserError(
            f"weights.data {settings.data!r} does not exist; {nearest('', PUBLIC)} does"
        )
    return PUBLIC[settings.data](settings, seed)


def _drawn_faces(settings: Pretraining, seed: int) -> Split:
    """Return drawn people 0 to ``identities - 1``, each batch of pictures by another camera."""
    cameras = 12
    parts = []
    for number in range(cameras):
        size = settings.examples // cameras + (number < settings.examples % cameras)
        if size:
            parts.append(
                models.drawn_faces.draw(
                    size,
                    seed=derive_seed(seed, "public", number),
                    identities=min(settings.identities, size),
                    first_identity=0,
                    camera=models.drawn_faces.Camera.of(derive_seed(seed, "public camera", number)),
                    size=settings.size,
                )
            )
    images = np.concatenate([part.images for part in parts])
    people = np.concatenate([part.identity for part in parts])
    _, labels = np.unique(people, return_inverse=True)
    return Split(ArrayInputs(images, MEAN, STD), labels.astype(np.int64))


PUBLIC: Mapping[str, Callable[[Pretraining, int], Split]] = {"drawn_faces": _drawn_faces}


def _settings(settings: Pretraining, epoch: int, device: torch.device) -> training.Settings:
    factor = training.schedule_factor("cosine", epoch, settings.epochs)
    return training.Settings(
        epochs=1,
        steps=None,
        batch_size=settings.batch_size,
        optimizer="sgd",
        lr=settings.lr * factor,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        clip=5.0,
        augment="flip",
        autocast=device.type == "cuda",
    )


def _source_hash() -> str:
    """Return the hash of the program that draws the pictures."""
    package = inspect.getfile(models.drawn_faces)
    seen = hashlib.sha256()
    for path in sorted(Path(package).parent.glob("*.py")):
        seen.update(path.read_bytes())
    return seen.hexdigest()
