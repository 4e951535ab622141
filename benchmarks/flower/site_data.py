"""The data of each site, by the loaders that the sites use; and the same examples for stock Flower."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from client_app.data.registry import load
from client_app.data.site_info import SiteInfo
from models.training.data import SiteData
from strategies.config import Config

WINDOWS, FEATURES, CLASSES = 36, 561, 6  # of a subject's drawn measurements


def sites_data(config: Config, sites: int, root: Path | None) -> list[SiteData]:
    """Return the data of each of ``sites`` simulated sites."""
    name = str(config.data["name"])
    return [
        load(name, config.data, SiteInfo(None, None, index, sites, root), config.seed)
        for index in range(sites)
    ]


def write_site_data(config: Config, sites: int, root: Path | None, folder: Path) -> None:
    """Write what `sites_data` returns for stock Flower, to ``folder/<number>.npz``."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, data in enumerate(sites_data(config, sites, root)):
        arrays: dict[str, Any] = {}
        for split in ("train", "test"):
            part = getattr(data, split)
            arrays[f"{split}_x"] = part.inputs.values
            arrays[f"{split}_y"] = part.labels
        np.savez(folder / f"{index}.npz", **arrays)


def write_measurements(path: Path, subjects: int) -> None:
    """Write seeded measurements to the npz file ``path``, in the form of UCI HAR."""
    generator = np.random.default_rng(subjects)
    subject = np.repeat(np.arange(1, subjects + 1), WINDOWS)
    y = np.tile(np.arange(WINDOWS) % CLASSES + 1, subjects)
    centers = generator.normal(size=(CLASSES + 1, FEATURES))
    x = 0.3 * centers[y] + generator.normal(size=(len(y), FEATURES))
    np.savez(path, x=x.astype(np.float32), y=y, subject=subject)
