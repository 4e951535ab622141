"""The loops over kept features train the same head on the same batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from benchmarks.measure import feature_loops
from benchmarks.measure.fine_tuning import CONFIG
from models.training.data import ArrayInputs, Split

CPU = torch.device("cpu")


def features() -> TensorDataset:
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, 2, (70,), generator=generator)
    return TensorDataset(torch.randn(70, 8, generator=generator), labels)


def head() -> nn.Linear:
    torch.manual_seed(2)
    return nn.Linear(8, 2)


def test_features_are_the_frozen_layers_outputs_in_order(tmp_path: Path) -> None:
    values = np.arange(600, dtype=np.float32).reshape(300, 2)
    split = Split(ArrayInputs(values), np.arange(300))
    made = feature_loops.features_of(nn.Identity(), split, CPU)
    assert torch.equal(made.tensors[0], torch.from_numpy(values))
    feature_loops.save_features(made, tmp_path / "kept.pt")
    read = feature_loops.load_features(tmp_path / "kept.pt", CPU)
    assert all(map(torch.equal, read.tensors, made.tensors))


def test_the_plain_loop_and_the_loader_have_the_same_batches() -> None:
    one, other = head(), head()
    feature_loops.plain_round(one, features(), CONFIG, 3)
    feature_loops.loader_round(other, features(), CONFIG, 3)
    assert torch.equal(one.weight, other.weight)
    assert not torch.equal(one.weight, head().weight)


@pytest.mark.skipif(not feature_loops.has_lightning(), reason="Lightning is not installed")
def test_lightning_trains_the_head_too() -> None:
    one = head()
    feature_loops.lightning_round(one, features(), CONFIG, 3)
    assert not torch.equal(one.weight, head().weight)
