"""Gives each site of a simulation its share of a published data set, as the papers' tables do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from client_app.data.duplicates import KEEP
from client_app.data.labels import Targets
from client_app.data.normalization import check_normalization
from client_app.data.paths import require_folder
from client_app.data.pflbench.ag_news import read_ag_news
from client_app.data.pflbench.cifar import read_cifar10, read_cifar100
from client_app.data.pflbench.download import TORCHVISION, download
from client_app.data.pflbench.idx import read_fashion_mnist, read_mnist
from client_app.data.pflbench.pamap2 import read_subject, subject_files, subject_name
from client_app.data.pflbench.published import Published, Values
from client_app.data.pflbench.tiny_imagenet import read_tiny_imagenet
from client_app.data.sharing import ExampleOptions, Labelled, draw_splits, share_of_site
from client_app.data.site_info import (
    SiteInfo,
    default_name,
    name_of_site,
    reject_empty_splits,
    require_root,
)
from client_app.data.site_split import (
    ALONE,
    COLUMN_SCHEMES,
    Rank,
    SiteSplit,
    rank_of,
    seed_of_split,
)
from client_app.data.splitting import check_fractions
from fedstrata.protocol.task_kinds import ONE_CLASS_EACH
from fedstrata.support.errors import UserError, nearest
from fedstrata.support.options import read_options
from fedstrata.support.seeds import derive_seed
from models.preprocessing import Pictures
from models.training.data import ArrayInputs, Places, SiteData, Split

DATASETS: Mapping[str, Callable[[Path, int], Published]] = {
    "mnist": read_mnist,
    "fashion_mnist": read_fashion_mnist,
    "cifar10": read_cifar10,
    "cifar100": read_cifar100,
    "tiny_imagenet": read_tiny_imagenet,
    "ag_news": read_ag_news,
}
PAMAP2 = "pamap2"  # of which a site reads the file of its own subject alone
_DOMAINS = "experiment=images data.domains=true data.site_split.scheme=domain"
ELSEWHERE: Mapping[str, str] = {
    "har": "experiment=har data.task=activity groups=all_common",
    "pacs": _DOMAINS,
    "digit5": _DOMAINS,
    "domainnet": _DOMAINS,
    "office": _DOMAINS,
    "camelyon17": "experiment=images data.manifest=<file>.csv data.task=tumor "
    "data.site_split.scheme=natural data.site_split.column=center",
}
"""Data sets of the tables that another experiment reads, and how."""


@dataclass(frozen=True)
class PflbenchOptions:
    """The options of ``conf/data/pflbench.yaml``, which says what each means."""

    dataset: str
    download: bool
    pool_files: bool
    validation_fraction: float
    test_fraction: float
    duplicates: str
    mean: float
    std: float
    largest_mb: int
    site_split: SiteSplit

    def __post_init__(self) -> None:
        known = self.dataset.lower().replace("-", "_")
        if known.replace("_", "") in ELSEWHERE:
            how = ELSEWHERE[known.replace("_", "")]
            raise UserError(f"data.dataset: {self.dataset!r} is read otherwise: write {how}")
        if self.dataset not in (*DATASETS, PAMAP2):
            raise UserError(
                f"data.dataset: no data set {self.dataset[:80]!r}; there is "
                f"{nearest(self.dataset, (*DATASETS, PAMAP2))}"
            )
        check_fractions(self.validation_fraction, self.test_fraction)
        check_normalization([self.mean], [self.std], 1)
        self.examples()
        if self.dataset == "tiny_imagenet" and self.duplicates != KEEP:
            raise UserError(
                f"data.duplicates={self.duplicates}: the pictures of tiny_imagenet are not compared; "
                "write keep"
            )
        if self.largest_mb < 1:
            raise UserError("data.largest_mb: at least 1")
        if self.dataset == PAMAP2:
            if self.site_split.scheme != "natural":
                raise UserError(
                    "data.site_split.scheme: each subject of pamap2 is a site; write natural"
                )
        elif self.site_split.scheme in COLUMN_SCHEMES:
            raise UserError(
                f"data.site_split.scheme: {self.dataset} has no subjects or domains for "
                f"{self.site_split.scheme!r}"
            )
        if self.download and self.dataset not in TORCHVISION:
            raise UserError(
                f"data.download: only {' and '.join(TORCHVISION)} are fetched; put the files of "
                f"{self.dataset} into data-root yourself"
            )

    def examples(self) -> ExampleOptions:
        """Return the options of examples that these files leave open."""
        made = ExampleOptions([], False, ".", None, self.duplicates, None)
        made.check_examples()
        return made


def load(options: Mapping[str, object], info: SiteInfo, seed: int) -> SiteData:
    """Return the site's share of the data set.

    Raises
    ------
    UserError
        An option, the site info or a file is wrong, or the site is a deployed one.
    """
    settings = read_options(PflbenchOptions, options, "data")
    if info.deployed:
        raise UserError(
            "data=pflbench divides a published data set among the sites of a simulation; a deployed "
            "site has data of its own: choose images, medmnist, tabular or text"
        )
    root = require_folder(require_root(info))
    if settings.download:
        download(settings.dataset, root)
    published, rank, subject = _chosen(settings, root, info)
    share = share_of_site(
        _labelled(settings, published),
        settings.examples(),
        settings.site_split,
        rank,
        seed_of_split(seed, "pflbench", subject or settings.dataset),
        info,
    )
    name = name_of_site(info, subject or default_name(info))
    parts = draw_splits(
        share,
        published.copies[share.rows],
        settings.validation_fraction,
        settings.test_fraction,
        derive_seed(seed, "pflbench", "split", settings.dataset, name),
        info.findings,
    )
    inputs = [_inputs(settings, published.values(share.rows[part])) for part in parts]
    labels = share.own.targets.values
    train, validation, test = (
        Split(each, labels[part]) for each, part in zip(inputs, parts, strict=True)
    )
    shape = inputs[0].values.shape[1:]
    pictures = len(shape) == 3
    return reject_empty_splits(
        SiteData(
            name,
            settings.dataset,
            published.classes,
            (shape[2], *shape[:2]) if pictures else shape,
            train,
            validation,
            test,
            source=subject,
            preprocessing=_preprocessing(inputs[0]) if pictures else None,
            test_places=_places(published, share.rows[parts[2]].tolist()),
        )
    )


def _chosen(settings: PflbenchOptions, root: Path, info: SiteInfo) -> tuple[Published, Rank, str]:
    """Return what the site shares, with how many sites, and the subject that it is, if it is one."""
    rank = rank_of(info)[1]
    if settings.dataset != PAMAP2:
        # No file of a data set changes while it is being divided: it is read once for all sites.
        return _read_cached(settings.dataset, root.resolve(), settings.largest_mb << 20), rank, ""
    files = subject_files(root)
    if rank.count > len(files):
        raise UserError(
            f"{rank.count} sites but {len(files)} subjects: start as many sites as there are "
            f"subjects, with --federation-config 'num-supernodes={len(files)}'"
        )
    if rank.count < len(files):
        info.findings.warn(
            f"{len(files) - rank.count} of {len(files)} subjects belong to no site; for all of them: "
            f"--federation-config 'num-supernodes={len(files)}'"
        )
    path = files[rank.index]
    return read_subject(path, settings.largest_mb << 20), ALONE, subject_name(path)


@lru_cache(maxsize=1)
def _read_cached(dataset: str, root: Path, largest: int) -> Published:
    return DATASETS[dataset](root, largest)


def _labelled(settings: PflbenchOptions, published: Published) -> Labelled:
    everything = np.arange(len(published.labels), dtype=np.int64)
    splits: list[str | None] = [None] * len(everything)
    if not settings.pool_files:
        splits = ["test" if tested else "train" for tested in published.tested.tolist()]
    return Labelled(
        Targets(everything, published.classes, published.labels, ONE_CLASS_EACH),
        splits,
        published.copies,
        published.where,
        published.what,
    )


def _places(published: Published, rows: Sequence[int]) -> Places:
    found = [published.place(row) for row in rows]
    return Places(tuple(path for path, _ in found), tuple(number for _, number in found))


def _inputs(settings: PflbenchOptions, values: Values) -> ArrayInputs:
    if values.dtype != np.uint8:
        return ArrayInputs(values)
    channels = values.shape[3]
    return ArrayInputs(values, (settings.mean,) * channels, (settings.std,) * channels)


def _preprocessing(inputs: ArrayInputs) -> Pictures | None:
    height, width, channels = inputs.values.shape[1:]
    if height != width:
        return None
    return Pictures(height, 1 if channels == 1 else 3, inputs.mean, inputs.std)
