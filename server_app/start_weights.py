"""Where a run starts from: the pre-trained checkpoint, by content hash, whatever its source."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fedstrata.protocol.orders import BEST, LAST
from fedstrata.protocol.plan import one_of
from fedstrata.support.durable import replacing_private
from fedstrata.support.errors import UserError
from fedstrata.support.folders import default_models_dir
from fedstrata.support.options import read_options
from fedstrata.support.paths import absolute_path
from fedstrata.support.registry import find
from models import weights
from models.licences import licence_of
from models.networks import build, shape_of
from models.networks.text import folder_tensors
from models.packaged import licence_of_packaged, read_packaged
from models.threads import with_threads
from models.weights import Checkpoint
from server_app.pretraining import Pretraining, job_hash, pretrain
from strategies.config import Config

Log = Callable[[str], None]


ANY = "any"  # in a plan that is signed: the start is not known yet


@dataclass(frozen=True)
class FileWeights:
    """The settings of ``weights=file``."""

    source: str
    path: str


@dataclass(frozen=True)
class FolderWeights:
    """The settings of ``weights=folder``: the folder is the model's own."""

    source: str


@dataclass(frozen=True)
class TorchvisionWeights:
    """The settings of ``weights=torchvision``."""

    source: str
    name: str


@dataclass(frozen=True)
class PackagedWeights:
    """The settings of ``weights=packaged``: they come with fedstrata."""

    source: str
    name: str


@dataclass(frozen=True)
class RunWeights:
    """The settings of ``weights=run``: a run that is measured, with the start that it had."""

    source: str
    run: str
    state: str


GivenWeights = FileWeights | FolderWeights | TorchvisionWeights | PackagedWeights
Weights = RunWeights | Pretraining | GivenWeights
SOURCES: Mapping[str, type[Weights] | None] = {
    "none": None,
    "central": Pretraining,
    "file": FileWeights,
    "folder": FolderWeights,
    "torchvision": TorchvisionWeights,
    "packaged": PackagedWeights,
    "run": RunWeights,
}


@dataclass(frozen=True)
class PretrainingJob:
    """A checkpoint that must be trained first; :meth:`run` does, and takes minutes."""

    settings: Pretraining
    model: Mapping[str, Any]
    seed: int
    cache: Path
    threads: int | None = None
    source: ClassVar[str] = "central pre-training"

    @property
    def note(self) -> Path:
        """Where it is written down what the job gave."""
        return self.cache / "central" / f"{job_hash(self.settings, self.model, self.seed)}.json"

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each tensor that pre-training will give, by name: none is of the head.

        The public pictures are square, and in colour.
        """
        size = self.settings.size
        options = {key: value for key, value in self.model.items() if key not in ("name", "head")}
        with torch.random.fork_rng(devices=[]):
            network = build(
                str(self.model["name"]), input_shape=(3, size, size), classes=2, head=[], **options
            )
        return {
            name: tuple(tensor.shape)
            for name, tensor in network.state_dict().items()
            if not name.startswith("head.")
        }

    def run(self, log: Log) -> Checkpoint:
        """Pre-train, and keep the result by its content hash; unless the same job was done since."""
        if found := _remembered(self.note, self.cache):
            log(f"stage 1: pre-trained weights {found.content_hash[:12]} found, training skipped")
            return found
        log(
            f"stage 1: pre-training {self.model['name']} on {self.settings.examples} public "
            f"pictures of {self.settings.identities} people, for their {self.settings.target}"
        )
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        with with_threads(self.threads):
            tensors = pretrain(self.settings, self.model, self.seed, device=device, log=log)
        made = _saved(tensors, self.source, self.cache, licence_of(self.source))
        with replacing_private(self.note) as unfinished:
            unfinished.write_text(json.dumps({"content_hash": made.content_hash}))
        return made


def read_weights(config: Config) -> Weights | None:
    """Return the checked options of ``config.weights``, or None for ``source: none``.

    Raises
    ------
    UserError
        For an unknown source, public data or target, an option that is unknown or missing, a
        relative path, and a folder's weights for a model that has none.
    """
    chosen = find("weights.source", str(config.weights.get("source")), SOURCES)
    if chosen is None:
        return None
    if chosen is FolderWeights and config.model.get("folder") is None:
        raise UserError(
            f"weights=folder: model={config.model['name']} has no folder to take them from; "
            "choose model=text_encoder, or weights=file"
        )
    read = read_options(chosen, config.weights, "weights")
    if isinstance(read, FileWeights):
        absolute_path(read.path, "weights.path")
    if isinstance(read, RunWeights):
        one_of("weights.state", read.state, (LAST, BEST))
    return read


def check_weights(config: Config) -> None:
    """Raise UserError as `read_weights` does, for any of the models."""
    for name in config.model_names:
        read_weights(config.of_model(name))


def hash_before(config: Config) -> str:
    """Return the content hash of the start, as far as it is known before the run.

    It is "" for ``source: none``, and `ANY` where the run trains its checkpoint itself.

    Raises
    ------
    UserError
        As `checkpoint`.
    """
    wanted = read_weights(config)
    if wanted is None:
        return ""
    if isinstance(wanted, Pretraining):
        return ANY
    if isinstance(wanted, RunWeights):
        raise UserError("weights=run: the run that is measured says what it started from")
    return weights.content_hash(_fitting(config, *_given(config, wanted), log=lambda line: None))


def checkpoint(
    config: Config, cache: Path, log: Log, start_of_run: str = ""
) -> Checkpoint | PretrainingJob | None:
    """Return the checkpoint that ``config.weights`` asks for, or None for ``source: none``.

    Parameters
    ----------
    config : Config
        The run.
    cache : Path
        Folder of caches; the checkpoint is at ``weights/<content hash>.safetensors`` afterwards.
    log : callable
        Takes one line.
    start_of_run : str
        With ``weights=run`` the content hash of the start that the run had, or "".

    Returns
    -------
    Checkpoint, PretrainingJob or None
        A job where the checkpoint has to be trained first.

    Raises
    ------
    UserError
        As `read_weights`, and for weights that cannot be read or do not fit.
    """
    wanted = read_weights(config)
    if wanted is None:
        return None
    if isinstance(wanted, RunWeights):
        return _kept(start_of_run, cache)
    if isinstance(wanted, Pretraining):
        job = PretrainingJob(wanted, config.model, config.seed, cache, config.train.threads)
        return job.run(log) if _remembered(job.note, cache) else job
    tensors, source = _given(config, wanted)
    if isinstance(wanted, PackagedWeights):
        licence = licence_of_packaged(wanted.name)
    else:
        licence = licence_of(source)
    return _saved(_fitting(config, tensors, source, log=log), source, cache, licence)


def checkpoints(
    config: Config, cache: Path, log: Log, starts: Mapping[str, str]
) -> dict[str, Checkpoint | PretrainingJob]:
    """Return what each model of a run starts from, as `checkpoint` does; without those that do not.

    ``starts`` has by model the content hash with which a measured run began. The key is "" where a
    run has one network.
    """
    found = {}
    for name in config.model_names:
        try:
            start = checkpoint(
                config.of_model(name), cache, _said_of(name, log), starts.get(name, "")
            )
        except UserError as error:
            raise _of_model(name, error) from None
        if start is not None:
            found[name] = start
    return found


def trained(starts: Mapping[str, Checkpoint | PretrainingJob], log: Log) -> dict[str, Checkpoint]:
    """Return the checkpoint of each model, after training what has to be trained: each job once."""
    return {
        name: start.run(_said_of(name, log)) if isinstance(start, PretrainingJob) else start
        for name, start in starts.items()
    }


def hashes_before(config: Config, given: str = "") -> tuple[str, dict[str, str]]:
    """Return the content hash of the start of a run with one network, and of each model's otherwise.

    As far as they are known before the run, as `hash_before` says; ``given`` stands for it, if any.
    """
    found = {}
    for name in config.model_names:
        own = config.of_model(name)
        found[name] = given or hash_before(own)
        if read_weights(own) is None:
            found[name] = ""
    if not config.models:
        return found[""], {}
    if given not in ("", ANY):
        raise UserError(
            "--checkpoint: the run has several models, and each has a start of its own: write "
            "--checkpoint any, or leave it out"
        )
    return "", {name: start for name, start in found.items() if start}


def _of_model(name: str, error: UserError) -> UserError:
    if not name:
        return error
    return UserError(
        f"model {name}: {error} (start weights for this model alone: +weights@models.{name}.weights="
        "none, or another source)"
    )


def path_of(cache: Path, content_hash: str) -> Path:
    """Return where the checkpoint of that content hash is kept."""
    return cache / "weights" / f"{content_hash}.safetensors"


def _kept(content_hash: str, cache: Path) -> Checkpoint | None:
    """Return the start that a run of before had."""
    if not content_hash:
        return None
    try:
        tensors, metadata = weights.load(path_of(cache, content_hash))
    except UserError as error:
        raise UserError(
            f"weights=run: the run started from the weights {content_hash}, and they are not here any "
            f"more: {error}"
        ) from None
    if weights.content_hash(tensors) != content_hash:
        raise UserError(f"weights=run: {path_of(cache, content_hash)} is damaged")
    source = metadata.get("source", "a run of before")
    return Checkpoint(content_hash, tensors, source, metadata.get("licence") or licence_of(source))


def _remembered(note: Path, cache: Path) -> Checkpoint | None:
    """Return the checkpoint that a job gave before, if it is still there and undamaged."""
    try:
        content_hash = str(json.loads(note.read_text())["content_hash"])
        tensors, _ = weights.load(path_of(cache, content_hash))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if weights.content_hash(tensors) != content_hash:
        return None
    source = PretrainingJob.source
    return Checkpoint(content_hash, tensors, source, licence_of(source))


def _given(config: Config, wanted: GivenWeights) -> tuple[Mapping[str, Tensor], str]:
    """Return the tensors of weights that were made elsewhere, and what they are called."""
    if isinstance(wanted, FileWeights):
        return weights.read_file(Path(wanted.path)), wanted.path
    if isinstance(wanted, FolderWeights):
        folder = config.model["folder"]
        return folder_tensors(folder, default_models_dir()), f"folder {folder}"
    if isinstance(wanted, PackagedWeights):
        return read_packaged(wanted.name), f"packaged {wanted.name}"
    return weights.torchvision_weights(str(config.model["name"]), wanted.name), wanted.name


def _fitting(
    config: Config, tensors: Mapping[str, Tensor], source: str, *, log: Log
) -> dict[str, Tensor]:
    """Load ``tensors`` into the model, say what fitted, and return what did."""
    network = _network(config, tensors)
    report = weights.load_into(network, tensors)
    log(f"weights {source}: {report}")
    own = network.state_dict()
    return {name: own[name].detach().clone() for name in report.loaded}


def _network(config: Config, tensors: Mapping[str, Tensor]) -> nn.Sequential:
    """Build the configured model for as many input channels as the weights have.

    The sites' own inputs are compared with them when the sites join.
    """
    options: dict[str, Any] = {k: v for k, v in config.model.items() if k != "name"}
    name = str(config.model["name"])
    shape = shape_of(name, tensors)
    network = build(name, input_shape=shape, classes=2, **options)
    first, own = next(iter(network.named_parameters()))
    given = tensors.get(first)
    if given is None or given.dim() < 2 or given.shape[1] == own.shape[1]:
        return network
    inputs = int(given.shape[1])
    shape = (inputs, *shape[1:]) if given.dim() == 4 else (inputs,)
    return build(name, input_shape=shape, classes=2, **options)


def _saved(tensors: Mapping[str, Tensor], source: str, cache: Path, licence: str) -> Checkpoint:
    content_hash = weights.content_hash(tensors)
    weights.save(path_of(cache, content_hash), tensors, {"source": source, "licence": licence})
    return Checkpoint(content_hash, tensors, source, licence)


def _said_of(model: str, log: Log) -> Log:
    """Return a log that names the model, where there are several."""
    return log if not model else lambda line: log(f"model {model}: {line}")
