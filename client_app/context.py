"""A site opened for a plan: its data, its model, its device and its store."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from client_app.data.registry import load as load_data
from client_app.data.site_info import SiteInfo
from client_app.exchange import Exchange
from client_app.failures import reading_data
from client_app.node_config import Site, checked_name
from client_app.store import DiskStore
from fedstrata.protocol.plan import Plan, plan_from_json
from fedstrata.support.errors import UserError, private, private_reason
from models import weights
from models.freezing import prefix_digest
from models.networks import input_dtype
from models.training.data import SiteData
from strategies.method import Method
from strategies.methods import make_method
from strategies.partitioned_model import PartitionedModel, build_partitioned

# What one process keeps open: models, and sites' data. A simulation asks its sites again every
# round, and what is not kept is read or drawn anew for every message. The cost is memory in each
# worker process: drawn faces as configured take 4 MB a site, 0.5 GB for 128; folders of pictures
# at most memory_mb a site, and all shares of a folder together no more than the folder once.
_MODELS_KEPT, _DATA_KEPT = 2, 128
_OWN: dict[Site, tuple[tuple[str, str, int], SiteData]] = {}  # of the last run, by deployed site
CHECKPOINT = "the pre-trained checkpoint"


@dataclass(frozen=True)
class LoadedModel:
    """A plan's model as a process keeps it, and copies of the tensors that every round starts from."""

    partitioned: PartitionedModel
    start: Mapping[str, Tensor]

    @cached_property
    def prefix_digest(self) -> str:
        """The SHA-256 of the frozen prefix; every round begins with it as it is in ``start``."""
        return prefix_digest(self.partitioned.network, self.partitioned.cut)


@dataclass(frozen=True)
class SiteContext:
    """A site at work: who it is, what it holds, and the model of the plan.

    ``micro_batches`` is into how many micro_batches a batch is cut to go through the device.
    """

    site: Site
    plan: Plan
    data: SiteData
    method: Method
    loaded: LoadedModel
    device: torch.device
    micro_batches: int = 1

    @property
    def partitioned(self) -> PartitionedModel:
        """The plan's model, which all benches of it share."""
        return self.loaded.partitioned

    @property
    def start(self) -> Mapping[str, Tensor]:
        """What every round starts from."""
        return self.loaded.start

    @property
    def evaluation_batch(self) -> int:
        """How many examples are evaluated at once; where memory was short, as many as in a piece."""
        config = self.plan.train
        if self.micro_batches == 1:
            return config.evaluation_batch_size
        return max(min(config.evaluation_batch_size, config.batch_size) // self.micro_batches, 1)

    @property
    def autocast(self) -> bool:
        """Whether to compute in bfloat16."""
        wanted = self.plan.train.precision
        return wanted == "bfloat16" or (wanted == "auto" and self.device.type == "cuda")

    @property
    def store(self) -> DiskStore:
        """Where this site's personal layers of this federation are."""
        return DiskStore(self.site.state_dir, self.plan.federation, self.data.site)

    @property
    def exchange(self) -> Exchange:
        """How layers reach this site and leave it."""
        return Exchange(self.partitioned.partition, self.plan.codings, self.start, self.store)


def open_site(site: Site, plan: Plan, data: SiteData | None = None) -> SiteContext:
    """Load the site's data and build the plan's model; raise UserError where that cannot be.

    With ``data`` the data are there already.
    """
    if site.threads is not None:
        torch.set_num_threads(site.threads)
    checked_name(plan.federation, "federation")
    if data is None:
        told = data_key(plan), plan.seed, site
        data = _open_data(*told) if site.simulated else _open_own(plan.federation, *told)
    _check_inputs(data, plan)
    path = checkpoint_path(site.cache_dir, plan.weights) if plan.weights else None
    opened = _open_model(
        replace(plan, federation="any", rounds=1, fraction=1.0, data={"name": "any"}).to_json(),
        path if path and path.exists() else None,
        data.input_shape,
        len(data.classes),
        site.models_dir,
    )
    device = choose_device(site.device)
    if plan.train.compile:
        _check_compiler(device)
    return SiteContext(site, plan, data, make_method(plan.method), opened, device)


def reopened_site(bench: SiteContext) -> SiteContext:
    """Return the bench again, with a checkpoint that has arrived since."""
    return replace(open_site(bench.site, bench.plan), micro_batches=bench.micro_batches)


def choose_device(wanted: str) -> torch.device:
    """Return the device that ``auto``, ``cpu``, ``cuda`` or ``cuda:N`` means here; else UserError."""
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    told = "device" + private(f" {wanted!r}")
    device: torch.device | None = None
    with suppress(RuntimeError):
        device = torch.device(wanted)
    if device is None or device.type not in ("cpu", "cuda"):
        raise UserError(told + " does not exist; use auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(told + " was asked for, but torch finds no CUDA device here")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        last = f"cuda:{torch.cuda.device_count() - 1}"
        raise UserError(told + f" was asked for, but the last CUDA device here is {last}")
    return device


def _check_compiler(device: torch.device) -> None:
    """Raise UserError where torch.compile lacks the compiler that it calls."""
    chosen = os.environ.get("CXX" if device.type == "cpu" else "CC")
    names = [chosen] if chosen else ["g++"] if device.type == "cpu" else ["gcc", "clang"]
    if not any(map(shutil.which, names)):
        told = private(f" ({', '.join(names)})")
        raise UserError(
            f"train.compile=true needs a C++ compiler{told}, and there is none here: install one "
            "or set train.compile=false"
        )


def checkpoint_path(cache_dir: Path, content_hash: str) -> Path:
    """Return where a site keeps the pre-trained checkpoint of that content hash."""
    return cache_dir / "weights" / f"{checked_name(content_hash, 'weights')}.safetensors"


def _check_inputs(data: SiteData, plan: Plan) -> None:
    """Refuse token ids for a network of numbers, and the reverse; flips of what is no picture."""
    model = str(plan.model["name"])
    given = data.train.inputs.batch(np.arange(1)).dtype
    if given != input_dtype(model):
        told = {torch.int64: "texts, as token ids"}.get(given, "numbers or pictures")
        other = "data=text" if given != torch.int64 else "model=text_encoder"
        raise UserError(f"the data are {told}, which model={model} does not take: choose {other}")
    if plan.train.augment != "none" and len(data.input_shape) != 3:
        raise UserError(
            f"train.augment={plan.train.augment} is for pictures, and these data are none: write "
            "train.augment=none"
        )


def data_key(plan: Plan) -> str:
    """Return the plan's choice of data as a text: equal ones give a site the same data."""
    return json.dumps(plan.data, sort_keys=True)


@lru_cache(maxsize=_DATA_KEPT)
def _open_data(options: str, seed: int, site: Site) -> SiteData:
    return read_data(options, seed, site)


def _open_own(federation: str, options: str, seed: int, site: Site) -> SiteData:
    """Read what a deployed site holds, anew for each run: what is there may have been mended."""
    run = federation, options, seed
    if _OWN.get(site, (None,))[0] != run:
        _OWN.pop(site, None)  # not two in memory
        _OWN[site] = run, read_data(options, seed, site)
    return _OWN[site][1]


def read_data(options: str, seed: int, site: Site) -> SiteData:
    """Read the site's data; ``options`` is as `data_key` gives it. UserError where it cannot be."""
    data = json.loads(options)
    seat = SiteInfo(
        site.name,
        site.task,
        site.index,
        site.count,
        site.data_root,
        site.models_dir,
        deployed=not site.simulated,
    )
    with reading_data():
        data = load_data(str(data["name"]), data, seat, seed)
    checked_name(data.site, "site")
    checked_name(data.task, "task")
    return data


@lru_cache(maxsize=_MODELS_KEPT)
def _open_model(
    plan: str,
    checkpoint: Path | None,
    input_shape: tuple[int, ...],
    classes: int,
    models_dir: Path,
) -> LoadedModel:
    read = plan_from_json(plan)
    partitioned = build_partitioned(
        read,
        make_method(read.method),
        input_shape=input_shape,
        classes=classes,
        models_dir=models_dir,
    )
    if checkpoint is not None:
        with private_reason(f"{CHECKPOINT} cannot be read: delete it, it will be sent again"):
            tensors, _ = weights.load(checkpoint)
        if weights.content_hash(tensors) != read.weights:
            here = private(checkpoint, CHECKPOINT)
            raise UserError(here + " is damaged: delete it, it will be sent again")
        partitioned.load_pretrained(tensors)
    return LoadedModel(partitioned, partitioned.tensors(list(partitioned.model.state_dict())))
