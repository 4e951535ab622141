"""Training on all sites' data in one place, as a run's ``baselines.pooled`` does, for tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from client_app.feature_cache import FeatureCache
from client_app.node_config import DEFAULT_CACHE_GB
from client_app.pooled.training import OnePlace, by_task
from fedstrata.protocol.task_kinds import LABELS
from models.training import metrics
from models.training.data import SiteData, Split
from server_app.start_weights import PretrainingJob, checkpoint
from strategies.config import Config, plan_for


def central(
    config: Config,
    sites: Sequence[SiteData],
    cache: Path,
    *,
    joint: bool = True,
    gpu: bool = False,
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
    gpu : bool
        Train on the GPU; otherwise on the CPU.

    Returns
    -------
    dict
        ``sites`` (site to task, examples, accuracy, validation; of labels ``accuracies`` too, one
        for each), ``curve`` (mean accuracy over the sites after each round's worth of passes).
    """
    plan = plan_for(config, federation="central", weights="")
    features = FeatureCache(
        cache / "features", DEFAULT_CACHE_GB * 10**9, config.train.feature_dtype
    )
    device = torch.device("cuda" if gpu else "cpu")
    place = OnePlace(plan, _start(config, cache), features, device)
    tasks = by_task(sites)
    parts = [tasks] if joint else [{task: members} for task, members in tasks.items()]
    by_label: dict[str, list[float]] = {}

    def note(data: SiteData, network: nn.Module, test: Split) -> None:
        if data.kind.name == LABELS:
            by_label[data.site] = _by_label(config, network, test)

    each = [place.train(part, every_round=True, trained=note) for part in parts]
    counts = [sum(map(len, part.values())) for part in parts]
    mean = np.average([curve for _, curve in each], axis=0, weights=counts)
    measured = {name: site for found, _ in each for name, site in found.items()}
    of_sites = {
        data.site: {
            "task": data.task,
            "kind": data.kind.name,
            **measured[data.site]["test"],
            "validation": measured[data.site]["validation"],
            **({"accuracies": by_label[data.site]} if data.site in by_label else {}),
        }
        for data in sites
    }
    return {"sites": dict(sorted(of_sites.items())), "curve": [float(value) for value in mean]}


def _start(config: Config, cache: Path) -> Mapping[str, Tensor]:
    made = checkpoint(config, cache, print)
    if isinstance(made, PretrainingJob):
        made = made.run(print)
    return {} if made is None else made.tensors


def _by_label(config: Config, network: nn.Module, test: Split) -> list[float]:
    """Return on which share of the test data each label is predicted rightly, with the cut at 0.5."""
    outputs = metrics.logits_of(
        network,
        test.inputs,
        batch_size=config.train.evaluation_batch_size,
        device=next(network.parameters()).device,
        autocast=False,
    )
    right = (outputs > 0).numpy() == (test.labels == 1)
    return [float(share) for share in right.mean(axis=0)]
