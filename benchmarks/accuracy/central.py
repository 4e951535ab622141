"""Training on all sites' data in one place, with the trainer that the sites use.

The networks, the layer groups, the frozen prefix, the optimizer, the schedule and the number of
passes over the data are those of a run. `common` layers are one set of tensors for all tasks. `task`
and `personal` layers are one set per task, since there are no sites any more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.accuracy.joint_network import Joint, build_joint, joint_loss, joint_rows
from benchmarks.accuracy.pooled_inputs import pooled
from client_app.feature_cache import FeatureCache, cached
from client_app.node_config import DEFAULT_CACHE_GB
from fedstrata.protocol.measures import MEASURES
from fedstrata.protocol.task_kinds import LABELS
from fedstrata.support.seeds import derive_seed
from models import freezing
from models.training import loop, metrics
from models.training.data import SiteData, Split
from models.training.objectives import Objective, objective_of
from server_app.start_weights import PretrainingJob, checkpoint
from strategies.config import Config
from strategies.partitioned_model import PartitionedModel

SPLITS = ("train", "validation", "test")
DEVICE = torch.device("cpu")


def central(
    config: Config,
    sites: Sequence[SiteData],
    cache: Path,
    *,
    joint: bool = True,
) -> dict[str, Any]:
    """Train on the data of all sites in one place, and measure at every site.

    Parameters
    ----------
    config : Config
        The run whose networks, groups, optimizer, schedule and passes are used.
    sites : sequence of SiteData
        The sites.
    cache : Path
        Folder of checkpoints and of features.
    joint : bool
        One joint network over all tasks; otherwise one network per task, trained by itself.

    Returns
    -------
    dict
        ``sites`` (site to task, examples, accuracy, validation; of labels ``accuracies`` too, one
        for each), ``curve`` (mean accuracy over the sites after each round's worth of passes).
    """
    tasks: dict[str, list[SiteData]] = {}
    for data in sites:
        tasks.setdefault(data.task, []).append(data)
    if joint:
        return _train(config, tasks, cache)
    each = [_train(config, {task: members}, cache) for task, members in tasks.items()]
    counts = [len(members) for members in tasks.values()]
    curve = np.average([one["curve"] for one in each], axis=0, weights=counts)
    measured = {name: site for one in each for name, site in one["sites"].items()}
    return {"sites": dict(sorted(measured.items())), "curve": [float(value) for value in curve]}


def _train(config: Config, tasks: Mapping[str, list[SiteData]], cache: Path) -> dict[str, Any]:
    joint, cut = build_joint(config, tasks, _start(config, cache))
    names = sorted(tasks)
    splits: dict[str, dict[str, Split]] = {}
    for task, members in tasks.items():
        for member in members:
            splits[member.site] = _features(
                config, joint.partitioned_models[task], cut, member, cache
            )
    order = [(task, member.site) for task in names for member in tasks[task]]
    pool = pooled([splits[site]["train"] for _, site in order])
    several = joint.layers_per_task()
    objectives = {name: _objective(tasks[name][0]) for name in names}
    labels = [splits[site]["train"].labels for _, site in order]
    if several:
        train = Split(pool, joint_rows(labels, [names.index(task) for task, _ in order]))
        loss = joint_loss(joint, objectives)
    else:
        train = Split(pool, np.concatenate(labels))
        loss = objectives[names[0]].loss(train.labels, "none", DEVICE)
    network = joint.body if several else joint.network(names[0])
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
            loss=loss,
            optimizer_state=state,
        )
        measured = _measure(config, joint, tasks, splits)
        curve.append(_mean_leading(measured))
    return {"sites": dict(sorted(measured.items())), "curve": curve}


def _objective(data: SiteData) -> Objective:
    return objective_of(data.kind, len(data.classes))


def _mean_leading(sites: Mapping[str, Mapping[str, Any]]) -> float:
    """Return the mean accuracy over the sites; without tasks of classes, of the leading measure."""
    for kind, measures in MEASURES.items():
        found = [site[measures.leading] for site in sites.values() if site["kind"] == kind]
        if found:
            return float(np.mean(found))
    return float("nan")


def _start(config: Config, cache: Path) -> Mapping[str, Tensor]:
    made = checkpoint(config, cache, print)
    if isinstance(made, PretrainingJob):
        made = made.run(print)
    return {} if made is None else made.tensors


def _features(
    config: Config, partitioned: PartitionedModel, cut: int, member: SiteData, cache: Path
) -> dict[str, Split]:
    splits = {name: getattr(member, name) for name in SPLITS}
    if not cut:
        return splits
    frozen, _ = freezing.split_at(partitioned.network, cut)
    digest = freezing.prefix_digest(partitioned.network, cut)
    features = FeatureCache(
        cache / "features", DEFAULT_CACHE_GB * 10**9, config.train.feature_dtype
    )
    return {
        name: cached(
            frozen,
            digest,
            part,
            features,
            batch_size=config.train.evaluation_batch_size,
            device=DEVICE,
            autocast=False,
        )
        for name, part in splits.items()
    }


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
    sites: dict[str, dict[str, Any]] = {}
    for task, members in tasks.items():
        network = joint.network(task)
        for member in members:
            measured = {
                name: metrics.evaluate(
                    network,
                    splits[member.site][name],
                    measure=_objective(member).measure,
                    batch_size=config.train.evaluation_batch_size,
                    device=DEVICE,
                    autocast=False,
                )
                for name in ("validation", "test")
            }
            sites[member.site] = {
                "task": task,
                "kind": member.kind.name,
                **measured["test"],
                "validation": measured["validation"],
            }
            if member.kind.name == LABELS:
                sites[member.site]["accuracies"] = _by_label(config, network, splits[member.site])
    return sites


def _by_label(config: Config, network: nn.Module, splits: Mapping[str, Split]) -> list[float]:
    """Return on which share of the test data each label is predicted rightly, with the cut at 0.5."""
    part = splits["test"]
    outputs = metrics.logits_of(
        network,
        part.inputs,
        batch_size=config.train.evaluation_batch_size,
        device=DEVICE,
        autocast=False,
    )
    right = (outputs > 0).numpy() == (part.labels == 1)
    return [float(share) for share in right.mean(axis=0)]
