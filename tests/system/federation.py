"""The small federation that the tests of this folder run: three sites, two tasks, four layer groups."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.fault_injection.plan import SITES as SITES
from benchmarks.fault_injection.testbed import SMALL
from fedstrata.support.seeds import derive_seed
from models import weights
from models.networks import build

PRETRAINED = ("conv1", "bn1")
RUN = (
    *SMALL,
    "groups.pretrained=[conv1,bn1]",
    "groups.common=[conv2,conv3]",
    "groups.task=[head.0]",
    "groups.personal=[bn2,bn3,head.out]",
    "train.optimizer.lr=0.1",
    "train.threads=1",  # otherwise the processes that are compared bit for bit have other threads
    "strategy.rounds=2",
    "deployment.epochs=1",
)
PERSONAL = ("bn2.weight", "bn3.weight", "head.out.weight", "head.out.bias")  # what tuning changes


def pretrained(path: Path) -> str:
    """Write a body of small_cnn with distinctive values to ``path``; return its content hash."""
    torch.manual_seed(derive_seed(7, "body"))
    network = build("small_cnn", input_shape=(3, 28, 28), classes=2, head=[8], dropout=0.0)
    tensors: dict[str, Tensor] = {}
    for name, tensor in network.state_dict().items():
        if name.split(".")[0] in PRETRAINED:
            noise = 0.1 * torch.rand_like(tensor) if tensor.is_floating_point() else 0
            tensors[name] = tensor + noise
    weights.save(path, tensors, {})
    return weights.content_hash(tensors)


def overrides(body: Path, *more: str) -> str:
    """Return the overrides of a run that starts from the file ``body``."""
    return " ".join([*RUN, "weights=file", f"weights.path={body}", *more])


def read_results(output: Path, run: str | None = None) -> dict[str, Any]:
    """Return results.json of a run of ``output``; of the only one where no name is given."""
    path = output / run / "results.json" if run else next(iter(output.glob("*/results.json")))
    loaded = json.loads(path.read_text())
    assert isinstance(loaded, dict)
    return loaded


OF_CLASSES = {"by_class", "confusion", "calibration", "roc"}


def measured(results: dict[str, Any]) -> dict[str, float]:
    """Return every number that a run measured, by where it stands; times are left out.

    So are the measures of each class, which a deployed site rounds further by its own rules.
    """
    rounds = {f"round {record['round']}": record["sites"] for record in results["rounds"]}
    last = {"final": results["final"]["sites"], "deployment": results["deployment"]["sites"]}
    return {
        f"{when} {site} {name}": value
        for when, sites in {**rounds, **last}.items()
        for site, record in sites.items()
        for name, value in _flat(record)
        if name != "seconds" and isinstance(value, int | float)
        if not OF_CLASSES & set(name.split("."))
    }


def _flat(record: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for name, value in record.items():
        if isinstance(value, dict):
            pairs += _flat(value, f"{prefix}{name}.")
        else:
            pairs.append((f"{prefix}{name}", value))
    return pairs
