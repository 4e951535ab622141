"""Where a run starts from: the pre-trained checkpoint, by content hash, whatever its source."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models import weights
from models.errors import UserError, nearest
from models.networks import build
from models.options import read_options
from models.pretraining import Pretraining, pretrain, recipe_hash
from strategies.config import Config

Log = Callable[[str], None]
SOURCES = ("none", "central", "file", "torchvision")


@dataclass(frozen=True)
class Checkpoint:
    """A pre-trained checkpoint: content hash, tensors by the model's names, and where it is from."""

    content_hash: str
    tensors: Mapping[str, Tensor]
    told: str


@dataclass(frozen=True)
class FileWeights:
    """The settings of ``weights=file``."""

    source: str
    path: str


@dataclass(frozen=True)
class TorchvisionWeights:
    """The settings of ``weights=torchvision``."""

    source: str
    name: str


def checkpoint(
    config: Config, input_shape: Callable[[], tuple[int, ...]], cache: Path, log: Log
) -> Checkpoint | None:
    """Return the checkpoint that ``config.weights`` asks for, or None for ``source: none``.

    Parameters
    ----------
    config : Config
        The run.
    input_shape : callable
        Returns the shape of one input, for sources that must build the model.
    cache : Path
        Folder of caches; the checkpoint is at ``weights/<content hash>.safetensors`` afterwards.
    log : callable
        Takes one line.

    Raises
    ------
    UserError
        For an unknown source, or weights that cannot be read or do not fit.
    """
    source = str(config.weights.get("source"))
    if source not in SOURCES:
        raise UserError(
            f"weights.source {source!r} does not exist; there are {', '.join(SOURCES)} "
            f"(nearest: {nearest(source, SOURCES)})"
        )
    if source == "none":
        return None
    if source == "central":
        return _central(config, cache, log)
    if source == "file":
        settings = read_options(FileWeights, config.weights, "weights")
        if not Path(settings.path).is_absolute():
            raise UserError(f"weights.path must be an absolute path, got {settings.path!r}")
        return _fitted(config, input_shape(), Path(settings.path), settings.path, cache, log)
    named = read_options(TorchvisionWeights, config.weights, "weights")
    tensors = weights.torchvision_weights(str(config.model["name"]), named.name)
    return _fitted(config, input_shape(), tensors, named.name, cache, log)


def path_of(cache: Path, content_hash: str) -> Path:
    """Return where the checkpoint of that content hash is kept."""
    return cache / "weights" / f"{content_hash}.safetensors"


def _central(config: Config, cache: Path, log: Log) -> Checkpoint:
    """Pre-train, unless the same recipe has been followed before."""
    settings = read_options(Pretraining, config.weights, "weights")
    recipe = recipe_hash(settings, config.model, config.seed)
    note = cache / "central" / f"{recipe}.json"
    if found := _remembered(note, cache):
        log(f"stage 1: pre-trained weights {found.content_hash[:12]} found, training skipped")
        return found
    log(
        f"stage 1: pre-training {config.model['name']} on {settings.examples} public pictures "
        f"of {settings.identities} people"
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tensors = pretrain(settings, config.model, config.seed, device=device, log=log)
    made = _kept(tensors, "central pre-training", cache)
    note.parent.mkdir(parents=True, exist_ok=True)
    temporary = note.with_suffix(".tmp")
    temporary.write_text(json.dumps({"content_hash": made.content_hash}))
    temporary.replace(note)
    return made


def _remembered(note: Path, cache: Path) -> Checkpoint | None:
    """Return the checkpoint that a recipe gave before, if it is still there and undamaged."""
    try:
        content_hash = str(json.loads(note.read_text())["content_hash"])
        tensors = weights.load(path_of(cache, content_hash))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if weights.content_hash(tensors) != content_hash:
        return None
    return Checkpoint(content_hash, tensors, "central pre-training")


def _fitted(
    config: Config,
    input_shape: tuple[int, ...],
    source: Mapping[str, Tensor] | Path,
    told: str,
    cache: Path,
    log: Log,
) -> Checkpoint:
    """Load ``source`` into the model, say what fitted, and return the tensors that did."""
    options: dict[str, Any] = {k: v for k, v in config.model.items() if k not in ("name", "head")}
    name = str(config.model["name"])
    network = build(name, input_shape=input_shape, classes=2, head=config.model["head"], **options)
    report = weights.load_into(network, source)
    log(f"weights {told}: {report}")
    own = network.state_dict()
    return _kept({n: own[n].detach().clone() for n in report.loaded}, told, cache)


def _kept(tensors: Mapping[str, Tensor], told: str, cache: Path) -> Checkpoint:
    content_hash = weights.content_hash(tensors)
    path = path_of(cache, content_hash)
    path.parent.mkdir(parents=True, exist_ok=True)
    weights.save(path, tensors, {"source": told})
    return Checkpoint(content_hash, tensors, told)
