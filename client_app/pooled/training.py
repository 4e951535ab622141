"""Training on all sites' data in one place, with the trainer that the sites use.

The networks, the layer groups, the frozen prefix, the optimizer, the schedule and the number of
passes over the data are those of a run. `common` layers are one set of tensors for all tasks. `task`
and `personal` layers are one set per task, since there are no sites any more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from client_app.feature_cache import FeatureCache, cached
from client_app.pooled.inputs import pooled
from client_app.pooled.network import Joint, build_joint, joint_loss, joint_rows
from fedstrata.protocol.answers import Metrics
from fedstrata.protocol.measures import MEASURES
from fedstrata.protocol.plan import Plan
from fedstrata.support.seeds import derive_seed
from models import freezing
from models.training import loop, metrics
from models.training.data import SiteData, Split
from models.training.objectives import Objective, objective_of
from strategies.partitioned_model import PartitionedModel

SPLITS = ("train", "validation", "test")
MEASURED = ("validation", "test")
Measured = dict[str, Metrics]  # by site, on its validation and test data


@dataclass(frozen=True)
class OnePlace:
    """Where the data of all sites are trained on together, and from what.

    Parameters
    ----------
    plan : Plan
        The run's.
    start : mapping of str to Tensor
        The pre-trained weights; empty without.
    features : FeatureCache
        Keeps the outputs of frozen layers.
    device : torch.device
        Where to train.
    models_dir : Path, optional
        See `build_partitioned`.
    """

    plan: Plan
    start: Mapping[str, Tensor]
    features: FeatureCache
    device: torch.device
    models_dir: Path | None = None

    def train(
        self,
        tasks: Mapping[str, list[SiteData]],
        *,
        every_round: bool,
        rounds: int | None = None,
        trained: Callable[[SiteData, nn.Module, Split], None] | None = None,
    ) -> tuple[Measured, list[float]]:
        """Train on the sites of all ``tasks`` together, and measure at every site.

        Parameters
        ----------
        tasks : mapping of str to list of SiteData
            The sites of each task.
        every_round : bool
            Whether to measure after each round's worth of passes, or after the last one alone.
        rounds : int, optional
            How many rounds' worth of passes; when omitted, the plan's.
        trained : callable, optional
            Takes each site, its network at the end, and its test data as that network takes them.

        Returns
        -------
        tuple of dict and list
            What each site's data say of the result; the mean leading measure over the sites after
            each round's worth of passes, or after the last one alone.
        """
        joint, cut = build_joint(self.plan, tasks, self.start, self.models_dir)
        names = sorted(tasks)
        splits: dict[str, dict[str, Split]] = {}
        for task, members in tasks.items():
            for member in members:
                splits[member.site] = self._features(joint.partitioned_models[task], cut, member)
        for partitioned in joint.partitioned_models.values():
            partitioned.model.to(self.device)
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
            loss = objectives[names[0]].loss(train.labels, "none", self.device)
        network = joint.body if several else joint.network(names[0])
        generator = loop.seeded(derive_seed(self.plan.seed, "central"))
        state: loop.OptimizerState = {}
        curve: list[float] = []
        measured: Measured = {}
        last = rounds or self.plan.rounds
        for number in range(1, last + 1):
            joint.train_mode()
            loop.fit(
                network,
                train,
                round_settings(self.plan, number, len(train), len(order)),
                trained=joint.parameters(),
                generator=generator,
                device=self.device,
                loss=loss,
                optimizer_state=state,
            )
            if every_round or number == last:
                measured = self._measure(joint, tasks, splits)
                curve.append(_mean_leading(measured, tasks))
        if trained is not None:
            for task, members in tasks.items():
                for member in members:
                    trained(member, joint.network(task), splits[member.site]["test"])
        return dict(sorted(measured.items())), curve

    def _features(
        self, partitioned: PartitionedModel, cut: int, member: SiteData
    ) -> dict[str, Split]:
        splits = {name: getattr(member, name) for name in SPLITS}
        if not cut:
            return splits
        frozen, _ = freezing.split_at(partitioned.network, cut)
        digest = freezing.prefix_digest(partitioned.network, cut)
        return {
            name: cached(
                frozen.to(self.device),
                digest,
                part,
                self.features,
                batch_size=self.plan.train.evaluation_batch_size,
                device=self.device,
                autocast=False,
            )
            for name, part in splits.items()
        }

    def _measure(
        self,
        joint: Joint,
        tasks: Mapping[str, list[SiteData]],
        splits: Mapping[str, Mapping[str, Split]],
    ) -> Measured:
        sites: Measured = {}
        for task, members in tasks.items():
            network = joint.network(task)
            for member in members:
                sites[member.site] = {
                    name: metrics.evaluate(
                        network,
                        splits[member.site][name],
                        measure=_objective(member).measure,
                        batch_size=self.plan.train.evaluation_batch_size,
                        device=self.device,
                        autocast=False,
                    )
                    for name in MEASURED
                }
        return sites


def by_task(sites: Sequence[SiteData]) -> dict[str, list[SiteData]]:
    """Return the sites of each task."""
    tasks: dict[str, list[SiteData]] = {}
    for data in sites:
        tasks.setdefault(data.task, []).append(data)
    return tasks


def round_settings(plan: Plan, number: int, examples: int, sites: int) -> loop.FitSettings:
    """Return the settings of one round's worth of passes over everybody's data."""
    train = plan.train
    epochs = train.epochs
    if epochs is None:
        assert train.steps is not None
        epochs = max(1, round(train.steps * train.batch_size * sites / examples))
    factor = loop.schedule_factor(train.schedule, number, plan.rounds)
    return loop.FitSettings(train, factor).for_epochs(epochs)


def _objective(data: SiteData) -> Objective:
    return objective_of(data.kind, len(data.classes))


def _mean_leading(measured: Measured, tasks: Mapping[str, list[SiteData]]) -> float:
    """Return the mean accuracy over the sites; without tasks of classes, of the leading measure."""
    kind_of = {each.site: each.kind.name for members in tasks.values() for each in members}
    for kind, measures in MEASURES.items():
        found = [
            measured[site]["test"][measures.leading] for site, own in kind_of.items() if own == kind
        ]
        if known := [value for value in found if value is not None]:
            return float(np.mean(known))
    return float("nan")
