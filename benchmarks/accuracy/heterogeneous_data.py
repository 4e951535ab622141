"""HAR and MNIST as sites with different networks get them: pooled, thinned, and split among sites."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.accuracy.prepare import shards
from client_app.data.site_split import Rank, SiteSplit, rows_of_site

SEED = 1  # of the splits: all runs have the same sites
SIDES = ("train", "val", "test")


def har_split(source: Path, work: Path, split: SiteSplit, sites: int, every: int) -> Path:
    """Return a file like ``source``, UCI HAR, in which each "subject" is a site.

    Parameters
    ----------
    source : Path
        The npz file with x, y and subject.
    work : Path
        Where the file is written.
    split : SiteSplit
        How the windows of all subjects are split among the sites.
    sites : int
        At most 30, as there are subjects.
    every : int
        One of so many windows is used.
    """
    with np.load(source, allow_pickle=False) as arrays:
        kept = {name: arrays[name][::every] for name in ("x", "y")}
    site_of = np.zeros(len(kept["y"]), dtype=np.int64)
    for index in range(sites):
        rows = rows_of_site(split, kept["y"].astype(np.int64), Rank(index, sites), SEED)
        site_of[rows] = index + 1
    path = work / f"har-{split.scheme}-{sites}-sites-every-{every}.npz"
    work.mkdir(parents=True, exist_ok=True)
    np.savez(path, **kept, subject=site_of)
    return path


def mnist_pool(source: Path, work: Path, every: int) -> Path:
    """Return one file with one of ``every`` pictures of all shards of MNIST, each in its split.

    Raises
    ------
    UserError
        There is no shard.
    """
    parts: dict[str, list[np.ndarray]] = {}
    for path in sorted(shards(source, work).glob("*.npz")):
        with np.load(path, allow_pickle=False) as shard:
            for side in SIDES:
                for kind in ("images", "labels"):
                    parts.setdefault(f"{side}_{kind}", []).append(shard[f"{side}_{kind}"])
    work.mkdir(parents=True, exist_ok=True)
    path = work / f"mnist-pool-every-{every}.npz"
    pooled = {name: np.concatenate(each)[::every] for name, each in parts.items()}
    np.savez(path, **pooled)  # type: ignore[arg-type]  # its stub takes no mapping of arrays
    return path
