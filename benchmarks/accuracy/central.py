"""All sites' data in one place, trained by the trainer that the sites use: what a federation gives up.

The networks, the layer groups, the frozen prefix, the optimiser, the schedule and the number of
passes over the data are the run's own. `common` layers are one set of tensors for all tasks; `task`
and `personal` layers are one set per task, since there are no sites any more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from client_app.data import SiteInfo, load
from client_app.feature_cache import FeatureCache, Features, cached
from client_app.node_config import DEFAULT_CACHE_GB
from fedstrata.support.seeds import derive_seed
from models import freezing
from models.freezing import set_train_mode
from models.training import loop, metrics
from models.training.data import ArrayInputs, Inputs, SiteData, Split
from server_app.start_weights import PretrainingJob, checkpoint
from strategies.config import Config, plan_for
from strategies.methods import make_method
from strategies.partitioned_model import PartitionedModel, build_partitioned

SPLITS = ("train", "validation", "test")
DEVICE = torch.device("cpu")


def sites_data(config: Config, sites: int, root: Path | None) -> list[SiteData]:
    """Return what each site of a simulation holds, by the loaders that the sites use."""
    return [
        load(
            str(config.data["name"]), config.data, SiteInfo(None, None, i, sites, root), config.seed
        )
        for i in range(sites)
    ]


@dataclass(frozen=True)
class Pool:
    """Inputs of several sites, one after the other.

    Parameters
    ----------
    parts : tuple of Split
        The sites' splits.
    """

    parts: tuple[Split, ...]

    def __post_init__(self) -> None:
        ends = np.cumsum([len(part) for part in self.parts])
        object.__setattr__(self, "ends", ends)

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    def batch(self, indices: NDArray[np.int64]) -> Tensor:
        """Return the inputs at ``indices``, in that order."""
        ends: NDArray[np.int64] = self.__dict__["ends"]
        owners = np.searchsorted(ends, indices, side="right")
        out: Tensor | None = None
        for owner in np.unique(owners):
            places = np.flatnonzero(owners == owner)
            part = self.parts[owner]
            first = int(ends[owner]) - len(part)
            got = part.inputs.batch(indices[places] - first)
            if out is None:
                out = got.new_empty((len(indices), *got.shape[1:]))
            out[torch.from_numpy(places)] = got
        assert out is not None
        return out

    def digest(self) -> str:
        """Return the digests of the parts, joined."""
        return "+".join(part.inputs.digest() for part in self.parts)


def pooled(parts: Sequence[Split]) -> Inputs:
    """Return the inputs of ``parts`` one after the other: in one array where they are arrays alike."""
    inputs = [part.inputs for part in parts]
    if all(isinstance(each, Features) for each in inputs):
        values = np.concatenate([each.values for each in inputs])  # type: ignore[attr-defined]
        return ArrayInputs(values.astype(np.float32, copy=False))
    arrays = [each for each in inputs if isinstance(each, ArrayInputs)]
    if len(arrays) == len(inputs) and len({(each.mean, each.std) for each in arrays}) == 1:
        values = np.concatenate([each.values for each in arrays])
        return ArrayInputs(values, arrays[0].mean, arrays[0].std)
    return Pool(tuple(parts))


@dataclass
class Joint:
    """One network per task, the common tensors shared between them.

    Parameters
    ----------
    body : nn.Module
        The leading steps that all tasks share, run once for a whole batch.
    tails : dict
        Task to the steps that run.
    partitioned_models : dict
        Task to the whole model.
    """

    body: nn.Module
    tails: dict[str, nn.Module]
    partitioned_models: dict[str, PartitionedModel]

    def parameters(self) -> dict[str, nn.Parameter]:
        """Return what is trained, each tensor once."""
        found: dict[int, tuple[str, nn.Parameter]] = {}
        for task, partitioned in self.partitioned_models.items():
            for name, parameter in partitioned.model.named_parameters():
                if parameter.requires_grad:
                    found.setdefault(id(parameter), (f"{task}/{name}", parameter))
        return dict(found.values())

    def layers_per_task(self) -> bool:
        """Whether any tensor is a task's own; otherwise it is one model for everybody."""
        return len(self.tails) > 1 and any(tail.state_dict() for tail in self.tails.values())

    def train_mode(self) -> None:
        """Put everything but the frozen layers in train mode."""
        for partitioned in self.partitioned_models.values():
            set_train_mode(partitioned.network, partitioned.partition)

    def network(self, task: str) -> nn.Module:
        """Return what answers for a task."""
        return nn.Sequential(self.body, self.tails[task])


def central(
    config: Config,
    held: Sequence[SiteData],
    cache: Path,
    *,
    together: bool = True,
) -> dict[str, Any]:
    """Train on the data of all sites in one place, and measure at every site.

    Parameters
    ----------
    config : Config
        The run whose networks, groups, optimiser, schedule and passes are used.
    held : sequence of SiteData
        The sites.
    cache : Path
        Folder of checkpoints and of features.
    together : bool
        One joint network over all tasks; otherwise one network per task, each by itself.

    Returns
    -------
    dict
        ``sites`` (site to task, examples, accuracy, validation), ``curve`` (mean accuracy over the
        sites after each round's worth of passes).
    """
    tasks: dict[str, list[SiteData]] = {}
    for data in held:
        tasks.setdefault(data.task, []).append(data)
    if together:
        return _train(config, tasks, cache)
    each = [_train(config, {task: members}, cache) for task, members in tasks.items()]
    counts = [len(members) for members in tasks.values()]
    curve = np.average([one["curve"] for one in each], axis=0, weights=counts)
    sites = {name: site for one in each for name, site in one["sites"].items()}
    return {"sites": dict(sorted(sites.items())), "curve": [float(value) for value in curve]}


def _train(config: Config, tasks: Mapping[str, list[SiteData]], cache: Path) -> dict[str, Any]:
    start = _start(config, cache)
    joint, cut = _draw(config, tasks, start)
    names = sorted(tasks)
    most = max(len(members[0].classes) for members in tasks.values())
    splits: dict[str, dict[str, Split]] = {}
    for task, members in tasks.items():
        for member in members:
            splits[member.site] = _features(
                config, joint.partitioned_models[task], cut, member, cache
            )
    order = [(task, member.site) for task in names for member in tasks[task]]
    pool = pooled([splits[site]["train"] for _, site in order])
    apart = joint.layers_per_task()
    first = {task: most * number if apart else 0 for number, task in enumerate(names)}
    codes = [splits[site]["train"].labels + first[task] for task, site in order]
    train = Split(pool, np.concatenate(codes))
    objective = _objective(joint, names, most) if apart else None
    network = joint.body if apart else joint.network(names[0])
    generator = loop.seeded(derive_seed(config.seed, "central"))
    state: loop.OptimizerState = {}
    curve = []
    for number in range(1, config.strategy.rounds + 1):
        joint.train_mode()
        loop.fit(
            network,
            train,
            round_settings(config, number, len(train), len(order)),
            trained=joint.parameters(),
            generator=generator,
            device=DEVICE,
            loss=objective,
            optimizer_state=state,
        )
        measured = _measure(config, joint, tasks, splits)
        curve.append(float(np.mean([site["accuracy"] for site in measured.values()])))
    return {"sites": dict(sorted(measured.items())), "curve": curve}


def _start(config: Config, cache: Path) -> Mapping[str, Tensor]:
    made = checkpoint(config, cache, print)
    if isinstance(made, PretrainingJob):
        made = made.run(print)
    return {} if made is None else made.tensors


def _draw(
    config: Config, tasks: Mapping[str, list[SiteData]], start: Mapping[str, Tensor]
) -> tuple[Joint, int]:
    """Build a network per task, tie what is common, and cut off what can be run once.

    Where tasks have layers of their own, the gradient of what is tied is that of `_objective` over
    the number of tasks.
    """
    plan = plan_for(config, federation="central", weights="")
    method = make_method(plan.method)
    partitioned_models = {}
    for task, members in tasks.items():
        data = members[0]
        partitioned = build_partitioned(
            plan, method, input_shape=data.input_shape, classes=len(data.classes)
        )
        partitioned.load({n: t for n, t in start.items() if n in partitioned.model.state_dict()})
        partitioned_models[task] = partitioned
    first = next(iter(partitioned_models.values()))
    shared = {
        name
        for name, group in first.partition.group_of.items()
        if group in ("pretrained", "common") or len(partitioned_models) == 1
    }
    for partitioned in partitioned_models.values():
        _tie(partitioned.model, first.model, shared)
    cut = first.cut if config.train.cache_features and config.train.augment == "none" else 0
    tails = {task: freezing.split_at(b.network, cut)[1] for task, b in partitioned_models.items()}
    common = 0
    for path, module in freezing.sequential_modules(tails[next(iter(tails))]):
        if not shared.issuperset(f"{path}.{name}" for name in module.state_dict()):
            break
        common += 1
    parts = {task: freezing.split_at(tail, common) for task, tail in tails.items()}
    body = next(iter(parts.values()))[0]
    joint = Joint(body, {task: tail for task, (_, tail) in parts.items()}, partitioned_models)
    if joint.layers_per_task():
        for name, parameter in first.model.named_parameters():
            if name in shared and parameter.requires_grad:
                parameter.register_hook(  # type: ignore[no-untyped-call]
                    lambda gradient: gradient / len(partitioned_models)
                )
    return joint, cut


def _tie(model: nn.Module, first: nn.Module, shared: set[str]) -> None:
    """Let ``model`` use the very tensors of ``first`` that are named."""
    for path, module in model.named_modules():
        other = first.get_submodule(path)
        for holder, source in (
            (module._parameters, other._parameters),
            (module._buffers, other._buffers),
        ):
            for name in holder:
                if f"{path}.{name}" in shared:
                    holder[name] = source[name]


def _features(
    config: Config, partitioned: PartitionedModel, cut: int, member: SiteData, cache: Path
) -> dict[str, Split]:
    splits = {name: getattr(member, name) for name in SPLITS}
    if not cut:
        return splits
    frozen, _ = freezing.split_at(partitioned.network, cut)
    digest = freezing.prefix_digest(partitioned.network, cut)
    kept = FeatureCache(cache / "features", DEFAULT_CACHE_GB * 10**9, config.train.feature_dtype)
    return {
        name: cached(
            frozen,
            digest,
            part,
            kept,
            batch_size=config.train.evaluation_batch_size,
            device=DEVICE,
            autocast=False,
        )
        for name, part in splits.items()
    }


def _objective(joint: Joint, names: Sequence[str], most: int) -> loop.Loss:
    """Return the loss of a batch of several tasks, each through its own tail.

    It is the sum over tasks of their mean losses, each weighted by its share of the batch times the
    number of tasks; `_draw` divides the gradients of the shared layers by that number. So a task's
    layers are stepped by its own mean gradient and the shared ones, wherever they stand, by the mean
    over all, as in a round of equations (1) and (2) with one step.
    """
    tasks = len(names)

    def loss(shared: Tensor, codes: Tensor) -> Tensor:
        total = shared.new_zeros(())
        owners = codes // most
        for number in torch.unique(owners).tolist():
            rows = (owners == number).nonzero().squeeze(1)
            logits = joint.tails[names[number]](shared[rows])
            labels = codes[rows] - most * number
            total = total + functional.cross_entropy(logits, labels, reduction="sum")
        return tasks * total / len(codes)

    return loss


def round_settings(config: Config, number: int, examples: int, sites: int) -> loop.FitSettings:
    """Return the settings of one round's worth of passes over everybody's data."""
    train = config.train
    epochs = train.epochs
    if epochs is None:
        assert train.steps is not None
        epochs = max(1, round(train.steps * train.batch_size * sites / examples))
    factor = loop.schedule_factor(train.schedule, number, config.strategy.rounds)
    return loop.FitSettings(train, factor).for_epochs(epochs)


def _measure(
    config: Config,
    joint: Joint,
    tasks: Mapping[str, list[SiteData]],
    splits: Mapping[str, Mapping[str, Split]],
) -> dict[str, dict[str, Any]]:
    sites = {}
    for task, members in tasks.items():
        network = joint.network(task)
        for member in members:
            measured = {
                name: metrics.evaluate(
                    network,
                    splits[member.site][name],
                    classes=len(member.classes),
                    batch_size=config.train.evaluation_batch_size,
                    device=DEVICE,
                    autocast=False,
                )
                for name in ("validation", "test")
            }
            sites[member.site] = {
                "task": task,
                **measured["test"],
                "validation": measured["validation"],
            }
    return sites
