"""Pooled and split data have every example once, and the same sites each time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.accuracy.heterogeneous_data import har_split, mnist_pool
from client_app.data.site_split import SiteSplit

FEW_CLASSES = SiteSplit("pathological", 0.1, 2, 2, None)


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    path = tmp_path / "har.npz"
    labels = np.arange(240) % 6 + 1
    np.savez(path, x=np.arange(240, dtype=np.float32)[:, None], y=labels, subject=labels)
    return path


def test_each_window_has_one_site_with_few_classes(recorded: Path, tmp_path: Path) -> None:
    path = har_split(recorded, tmp_path / "work", FEW_CLASSES, sites=6, every=2)
    with np.load(path) as made:
        assert made["x"].ravel().tolist() == list(range(0, 240, 2))
        sites, labels = made["subject"], made["y"]
    assert sorted(set(sites.tolist())) == [1, 2, 3, 4, 5, 6]
    assert all(len(set(labels[sites == site])) <= 2 for site in range(1, 7))
    again = har_split(recorded, tmp_path / "again", FEW_CLASSES, sites=6, every=2)
    with np.load(again) as made:
        assert made["subject"].tolist() == sites.tolist()


def test_the_shards_are_one_file_with_their_splits(tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    folder.mkdir()
    for number in range(2):
        arrays = {}
        for side, many in (("train", 6), ("val", 2), ("test", 4)):
            arrays[f"{side}_images"] = np.full((many, 8, 8), number, dtype=np.uint8)
            arrays[f"{side}_labels"] = np.arange(many)[:, None]
        np.savez(folder / f"site-{number:02}.npz", **arrays)
    path = mnist_pool(folder, tmp_path / "work", every=2)
    with np.load(path) as made:
        assert {name: len(made[name]) for name in made.files if "labels" in name} == {
            "train_labels": 6,
            "val_labels": 2,
            "test_labels": 4,
        }
        assert made["train_images"][:, 0, 0].tolist() == [0, 0, 0, 1, 1, 1]
