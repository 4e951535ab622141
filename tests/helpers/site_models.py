"""Sites with data in files, each with the model that it would keep after a run."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from client_app import orders
from client_app.context import SiteContext, open_site
from client_app.node_config import read_node_settings
from server_app.compose import compose
from strategies.config import plan_for
from tests.helpers.data_files import har_recordings, medmnist_arrays
from tests.helpers.site_contexts import order, payloads

ONE = [
    "train.epochs=1",
    "train.batch_size=8",
    "deployment.epochs=1",
    "weights=none",
    "deployment.groups=[common]",
]
NAMES = ("cat", "dog")


def deployed(
    experiment: str, root: Path, *overrides: str, models: Path | None = None
) -> SiteContext:
    """Return a site that has trained and tuned; its model is at ``context.store.deployed``."""
    config = compose(experiment, [*ONE, *overrides])
    plan = plan_for(config, federation="march", weights="")
    given = {"partition-id": 0, "num-partitions": 1, "data-root": str(root)}
    if models is not None:
        given["models-dir"] = str(models)
    node = replace(read_node_settings(given, {}), simulated=True)
    context = open_site(node, plan)
    orders.deploy(context, order(2, payloads(context)))
    return context


def drawn(folder: Path) -> SiteContext:
    """Return a site that draws its faces."""
    few = ("data.train=24", "data.validation=8", "data.test=12", "data.size=16")
    return deployed("faces", folder, "model.head=[]", "groups=all_common", *few)


def medmnist(folder: Path) -> SiteContext:
    """Return a site with a MedMNIST file, whose pictures are scaled."""
    path = folder / "blood.npz"
    np.savez_compressed(path, **medmnist_arrays(kinds=2))
    return deployed("medmnist", path, *PICTURES)


def har(folder: Path) -> SiteContext:
    """Return a site with a subject of UCI HAR."""
    path = folder / "har.npz"
    np.savez_compressed(path, **har_recordings())
    return deployed("har", path, "groups=all_common")


SITES: Mapping[str, Callable[[Path], SiteContext]] = {
    "drawn faces": drawn,
    "medmnist": medmnist,
    "har": har,
}
"""Sites whose examples stand in no file of their own, by their data."""


def pictures(root: Path, many: int = 30) -> Path:
    """Write class folders of pictures, those of dogs darker."""
    rng = np.random.default_rng(0)
    for name in NAMES:
        (root / name).mkdir(parents=True)
        for number in range(many):
            most = 256 if name == "cat" else 160
            pixels = rng.integers(0, most, (20, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number:03d}.png")
    return root


def table(path: Path, many: int = 80) -> Path:
    """Write a table with numbers, gaps and categories."""
    rng = np.random.default_rng(0)
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["age", "place", "label"])
        for _ in range(many):
            age = int(rng.integers(20, 90))
            shown = "" if rng.random() < 0.1 else age
            rows.writerow([shown, rng.choice(["ward", "home"]), NAMES[int(age > 50)]])
    return path


def texts(path: Path, many: int = 60) -> Path:
    """Write texts, whose label is which of two words they have."""
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label"])
        for number in range(many):
            filler = " ".join(["the"] * (number // 2 % 4))
            rows.writerow(
                [f"patient {number} {filler} {('cough', 'knee')[number % 2]}", NAMES[number % 2]]
            )
    return path


PICTURES = ("model=small_cnn", "model.head=[]", "data.size=16", "groups=all_common")
TABLE = (
    "data.categories={place: [ward, home]}",
    "groups=all_common",
    "model=mlp",
    "model.hidden=[6]",
)
TEXTS = ("model.folder=tiny-bert", "data.length=8", "model.head=[]", "groups=all_common")
