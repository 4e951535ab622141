"""A site opened for a plan: its data, its model, its device and its store."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Hashable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from client_app.data.findings import Findings
from client_app.data.registry import categories as categories_of_data
from client_app.data.registry import load as load_data
from client_app.data.registry import sums as sums_of_data
from client_app.data.site_info import SiteInfo
from client_app.exchange import Exchange
from client_app.failures import reading_data
from client_app.kept_models import KeptModels
from client_app.node_config import NodeSettings, checked_name
from client_app.numerics import use_threads
from client_app.own_model import own_plan
from client_app.store import DiskStore
from fedstrata.protocol.categories import CategoriesReport
from fedstrata.protocol.plan import Plan
from fedstrata.protocol.sums import SumsReport, are_wanted
from fedstrata.protocol.task_kinds import NUMBER
from fedstrata.support.errors import UserError, private, private_reason
from fedstrata.support.frozen import frozen
from models import weights
from models.freezing import prefix_digest, trained_norms
from models.networks import input_dtype
from models.training.data import SiteData
from models.training.objectives import Objective, objective_of
from strategies.method import Method
from strategies.methods import make_method
from strategies.partitioned_model import PartitionedModel, build_partitioned

# Sites' data that one process keeps open. A simulation asks its sites again every round, and what is
# not kept is read or drawn anew for every message. The cost is memory in each worker process: drawn
# faces as configured take 4 MB a site, 0.5 GB for 128; folders of pictures at most memory_mb a site,
# and all shares of a folder together no more than the folder once.
_DATA_KEPT = 128
CHECKPOINT = "the pre-trained checkpoint"
logger = logging.getLogger("flwr")


@dataclass(frozen=True)
class DataKey:
    """Which data a plan chooses: equal keys give a site the same data.

    ``options``, what the data are loaded with, are compared as ``choice``.
    """

    choice: Hashable
    seed: int
    options: Mapping[str, Any] = field(compare=False, repr=False)

    @classmethod
    def of(cls, plan: Plan) -> DataKey:
        """Return the key of ``plan``."""
        return cls(frozen(plan.data_options), plan.seed, plan.data_options)


@dataclass(frozen=True)
class ModelKey:
    """Which model a site needs: equal keys give equal tensors.

    ``plan``, from which the model is built, is compared as ``choice``: the part of it that decides
    the model. So all sites of equal shapes, and all rounds, share one model.
    """

    choice: Hashable
    checkpoint: Path | None
    input_shape: tuple[int, ...]
    classes: int
    models_dir: Path
    plan: Plan = field(compare=False, repr=False)

    @classmethod
    def of(cls, node: NodeSettings, plan: Plan, data: SiteData) -> ModelKey:
        """Return the key for a site with ``data``; the checkpoint is None until it has arrived."""
        # The tuning is part of it: the groups that it names are checked when the model is built.
        parts = (plan.seed, plan.model, plan.weights, plan.groups, plan.method, plan.tuning)
        path = checkpoint_path(node.cache_dir, plan.weights) if plan.weights else None
        return cls(
            frozen(parts),
            path if path and path.exists() else None,
            data.input_shape,
            len(data.classes),
            node.models_dir,
            plan,
        )


@dataclass(frozen=True)
class LoadedModel:
    """A plan's model as a process keeps it, and copies of the tensors that every round starts from."""

    partitioned: PartitionedModel
    start: Mapping[str, Tensor]

    @property
    def size(self) -> int:
        """The bytes of its tensors."""
        own = self.partitioned.model.state_dict().values()
        return sum(tensor.nbytes for tensor in (*own, *self.start.values()))

    @cached_property
    def prefix_digest(self) -> str:
        """The SHA-256 of the frozen prefix; every round begins with it as it is in ``start``."""
        return prefix_digest(self.partitioned.network, self.partitioned.cut)


@dataclass(frozen=True)
class SiteContext:
    """A site at work on a plan.

    Parameters
    ----------
    node : NodeSettings
        What the site decides itself.
    plan : Plan
        What the server says of the run, with the site's own model; see `own_plan`.
    data : SiteData
        The site's name, task and splits.
    method : Method
        The plan's method; its local half trains.
    loaded : LoadedModel
        The plan's model, which sites of equal shapes share.
    device : torch.device
        Where the site computes.
    micro_batches : int
        Into how many parts a batch is cut to go through the device, where memory is short.
    """

    node: NodeSettings
    plan: Plan
    data: SiteData
    method: Method
    loaded: LoadedModel
    device: torch.device
    micro_batches: int = 1

    @property
    def partitioned(self) -> PartitionedModel:
        """The plan's model."""
        return self.loaded.partitioned

    @property
    def start(self) -> Mapping[str, Tensor]:
        """What every round starts from."""
        return self.loaded.start

    @property
    def objective(self) -> Objective:
        """What the site's task is trained and measured by."""
        return objective_of(self.data.kind, len(self.data.classes))

    @property
    def evaluation_batch(self) -> int:
        """How many examples are evaluated at once; no more than a micro-batch has."""
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
    def has_weights(self) -> bool:
        """Whether the pre-trained checkpoint of the plan is on the site's disk, or none is needed."""
        wanted = self.plan.weights
        return not wanted or checkpoint_path(self.node.cache_dir, wanted).exists()

    @cached_property
    def store(self) -> DiskStore:
        """Where this site's personal layers of this federation are."""
        return DiskStore(self.node.state_dir, self.plan.federation, self.data.site)

    @property
    def exchange(self) -> Exchange:
        """How layers reach this site and leave it."""
        return Exchange(self.partitioned.partition, self.plan.codings, self.start, self.store)


def open_site(node: NodeSettings, plan: Plan, data: SiteData | None = None) -> SiteContext:
    """Load the site's data and the plan's model; raise UserError where that cannot be.

    With ``data`` the data are there already.
    """
    use_threads(node, plan.train)
    checked_name(plan.federation, "federation")
    if data is None:
        key = DataKey.of(plan)
        data = _simulated_data(key, node) if node.simulated else _own_data(plan, key, node)
    plan = own_plan(node, plan, data.site)
    _check_inputs(data, plan)
    key_of_model = ModelKey.of(node, plan, data)
    loaded = MODELS_KEPT.get(key_of_model, lambda: _load_model(key_of_model))
    _check_batches(data, plan, loaded.partitioned)
    device = choose_device(node.device)
    if plan.train.compile:
        _check_compiler(device)
    return SiteContext(node, plan, data, make_method(plan.method), loaded, device)


def reopened_site(context: SiteContext) -> SiteContext:
    """Return the context again, with a checkpoint that has arrived since."""
    return replace(open_site(context.node, context.plan), micro_batches=context.micro_batches)


def choose_device(wanted: str) -> torch.device:
    """Return the device that ``auto``, ``cpu``, ``cuda`` or ``cuda:N`` means here; else UserError."""
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    message = "device" + private(f" {wanted!r}")
    device: torch.device | None = None
    with suppress(RuntimeError):
        device = torch.device(wanted)
    if device is None or device.type not in ("cpu", "cuda"):
        raise UserError(message + " does not exist; use auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(message + " was asked for, but torch finds no CUDA device here")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        last = f"cuda:{torch.cuda.device_count() - 1}"
        raise UserError(message + f" was asked for, but the last CUDA device here is {last}")
    return device


def checkpoint_path(cache_dir: Path, content_hash: str) -> Path:
    """Return where a site keeps the pre-trained checkpoint of that content hash."""
    return cache_dir / "weights" / f"{checked_name(content_hash, 'weights')}.safetensors"


def read_site_data(key: DataKey, node: NodeSettings, findings: Findings | None = None) -> SiteData:
    """Read the data of a site, always anew; raise UserError where that cannot be.

    What was left out, guessed or replaced is added to ``findings``; without, a deployed site logs it.
    Of a simulated one it is also among the data's ``notes``, which its server logs.
    """
    found = Findings() if findings is None else findings
    info = _site_info(node, found)
    with reading_data():
        data = load_data(str(key.options["name"]), key.options, info, key.seed)
    # A loader takes names from files and folders of the site: they become names of files here.
    checked_name(data.site, "site")
    checked_name(data.task, "task")
    awaited = are_wanted(key.options, key.options.get("constants"))  # the scale, from the server
    if data.kind.name == NUMBER and not data.kind.mean and not awaited:
        found.warn(
            f"task {data.task!r} predicts numbers as they are, with mean 0 and std 1: write "
            f"data.tasks.{data.task}.mean and .std, or the loss may be far too large to learn"
        )
    if not info.deployed:
        return replace(data, notes=tuple(found.lines()))
    if findings is None:
        for line in found.lines():
            logger.info("site %s: %s", data.site, line)
    return data


def site_sums(key: DataKey, node: NodeSettings) -> SumsReport:
    """Return the sums over a site's training rows; raise UserError where there are none."""
    with reading_data():
        name = str(key.options["name"])
        return sums_of_data(name, key.options, _site_info(node, Findings()), key.seed)


def site_categories(key: DataKey, node: NodeSettings) -> CategoriesReport:
    """Return the categories of a site's columns; raise UserError where there are none."""
    with reading_data():
        name = str(key.options["name"])
        return categories_of_data(name, key.options, _site_info(node, Findings()))


def _site_info(node: NodeSettings, findings: Findings) -> SiteInfo:
    return SiteInfo(
        node.name,
        node.task,
        node.index,
        node.count,
        node.data_root,
        node.models_dir,
        deployed=not node.simulated,
        cache_dir=node.cache_dir,
        findings=findings,
    )


@lru_cache(maxsize=_DATA_KEPT)
def _simulated_data(key: DataKey, node: NodeSettings) -> SiteData:
    return read_site_data(key, node)


_OWN_DATA: dict[NodeSettings, tuple[Hashable, SiteData]] = {}  # of the last run, by deployed site


def _own_data(plan: Plan, key: DataKey, node: NodeSettings) -> SiteData:
    """Read a deployed site's data once in each run: between runs a hospital may correct them."""
    run = plan.federation, key
    if _OWN_DATA.get(node, (None,))[0] != run:
        _OWN_DATA.pop(node, None)  # before reading: memory need not have room for both
        _OWN_DATA[node] = run, read_site_data(key, node)
    return _OWN_DATA[node][1]


def _load_model(key: ModelKey) -> LoadedModel:
    """Build the model of ``key``, with the pre-trained weights where they are there."""
    partitioned = build_partitioned(
        key.plan,
        make_method(key.plan.method),
        input_shape=key.input_shape,
        classes=key.classes,
        models_dir=key.models_dir,
    )
    if key.checkpoint is not None:
        with private_reason(f"{CHECKPOINT} cannot be read: delete it, it will be sent again"):
            tensors, _ = weights.load(key.checkpoint)
        # The file's name is its hash, but a disk can lose bytes.
        if weights.content_hash(tensors) != key.plan.weights:
            here = private(key.checkpoint, CHECKPOINT)
            raise UserError(here + " is damaged: delete it, it will be sent again")
        partitioned.load_pretrained(tensors)
    return LoadedModel(partitioned, partitioned.tensors(list(partitioned.model.state_dict())))


MODELS_KEPT = KeptModels[LoadedModel](lambda loaded: loaded.size)


def _check_inputs(data: SiteData, plan: Plan) -> None:
    """Refuse data that network, method or ``train`` are not for, before anything is trained."""
    model = str(plan.model["name"])
    given = data.train.inputs.batch(np.arange(1)).dtype
    if given != input_dtype(model):
        kind = {torch.int64: "texts, as token ids"}.get(given, "numbers or pictures")
        other = "data=text" if given != torch.int64 else "model=text_encoder"
        raise UserError(f"the data are {kind}, which model={model} does not take: choose {other}")
    if plan.train.augment != "none" and len(data.input_shape) != 3:
        raise UserError(
            f"train.augment={plan.train.augment} is for pictures, and these data are none: write "
            "train.augment=none"
        )
    make_method(plan.method).check_task(data.kind)
    objective = objective_of(data.kind, len(data.classes))
    objective.loss(data.train.labels, plan.train.class_weights, torch.device("cpu"))


def _check_batches(data: SiteData, plan: Plan, partitioned: PartitionedModel) -> None:
    """Refuse batches of one example where a BatchNorm learns: it has no variance of one."""
    if plan.train.batch_size > 1 and len(data.train) > 1:
        return
    norms = trained_norms(partitioned.model, partitioned.partition)  # of the method's modules too
    if not norms:
        return
    if plan.train.batch_size == 1:
        what = "train.batch_size=1"
        instead = "write train.batch_size=2 or more"
    else:
        what, instead = "the site has one training example", "give the site more examples"
    raise UserError(
        f"{what}, and BatchNorm ({norms[0]}) normalizes over the examples of a batch, of which it "
        f"needs two: {instead}, or choose a model without BatchNorm, such as vgg11 or mlp"
    )


def _check_compiler(device: torch.device) -> None:
    """Raise UserError where torch.compile lacks the compiler that it calls.

    Torch itself would say so in the middle of the first round, in an error of many lines.
    """
    chosen = os.environ.get("CXX" if device.type == "cpu" else "CC")
    names = [chosen] if chosen else ["g++"] if device.type == "cpu" else ["gcc", "clang"]
    if not any(map(shutil.which, names)):
        tried = private(f" ({', '.join(names)})")
        raise UserError(
            f"train.compile=true needs a C++ compiler{tried}, and there is none here: install one "
            "or set train.compile=false"
        )
