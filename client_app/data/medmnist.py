"""MedMNIST ``.npz`` files (Yang et al., Scientific Data 2023), one per site or per task."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from client_app.data.arrays import Stamp, read_npz, stamp, whole_numbers
from client_app.data.normalization import check_normalization
from client_app.data.paths import describe_file, describe_root, file_inside, reject_names_in_a_file
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
    rows_of_site,
    seed_of_split,
)
from fedstrata.support.errors import UserError, nearest, private
from fedstrata.support.options import read_options
from models.training.data import ArrayInputs, SiteData, Split

SPLITS = ("train", "val", "test")
MOST_CLASSES = 10_000  # a larger label is damage: class names are sent to the server


@dataclass(frozen=True)
class MedmnistOptions:
    """The options of ``conf/data/medmnist.yaml``, which says what each means."""

    file: str | None
    files: dict[str, str] | None
    classes: dict[str, list[str]] | None
    channels: int
    size: int | None
    mean: list[float]
    std: list[float]
    largest_mb: int
    measure_on_all: bool
    site_split: SiteSplit

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise UserError(f"data.channels: 1 or 3, not {self.channels}")
        if self.size is not None and not 1 <= self.size <= 1024:
            raise UserError(f"data.size: {self.size} is not between 1 and 1024 pixels")
        check_normalization(self.mean, self.std, self.channels)
        if self.site_split.scheme in COLUMN_SCHEMES:
            scheme = self.site_split.scheme
            raise UserError(f"data.site_split.scheme: these files have no column for {scheme!r}")
        if self.file is not None and self.files is not None:
            raise UserError("data.file and data.files: give one of them, and null for the other")


@dataclass(frozen=True)
class Collection:
    """The pictures of one file: training, then validation, then test.

    Parameters
    ----------
    images : NDArray[np.uint8]
        Shape ``(n, h, w, c)`` with one channel or three.
    labels : NDArray[np.int64]
        Class indices, shape ``(n,)``.
    split : NDArray[np.int64]
        0, 1 or 2 for train, validation or test, shape ``(n,)``.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    split: NDArray[np.int64]


def load(options: Mapping[str, object], info: SiteInfo, seed: int) -> SiteData:
    """Return the site's share of its file, with the file's own splits.

    Raises
    ------
    UserError
        An option, the site info or the file is wrong.
    """
    settings = read_options(MedmnistOptions, options, "data")
    name = name_of_site(info, default_name(info))
    path, task, rank = _choose_file(settings, require_root(info), info, name)
    collection = _read_cached(stamp(path), settings.largest_mb << 20)
    classes = _classes(settings, task, collection, path)
    shared_seed = seed_of_split(seed, "medmnist", path.stem)
    rows = rows_of_site(settings.site_split, collection.labels, rank, shared_seed)
    rows_of_splits = [rows[collection.split[rows] == number] for number in range(3)]
    # A site with few classes would otherwise be tested on these few only.
    if settings.measure_on_all:
        rows_of_splits[1:] = [np.flatnonzero(collection.split == number) for number in (1, 2)]
    height, width = collection.images.shape[1:3]
    shape = (settings.channels, settings.size or height, settings.size or width)
    # Checked here, because scaling the pictures allocates this memory.
    size = math.prod(shape) * sum(map(len, rows_of_splits))
    if size > settings.largest_mb << 20:
        raise UserError(
            f"the pictures would take {size >> 20} MB with data.size={settings.size} and data.channels="
            f"{settings.channels}, and data.largest_mb is {settings.largest_mb}: lower or raise it"
        )
    train, validation, test = (
        _split(settings, collection, chosen, path) for chosen in rows_of_splits
    )
    return reject_empty_splits(SiteData(name, task, classes, shape, train, validation, test))


def _choose_file(
    settings: MedmnistOptions, root: Path, info: SiteInfo, name: str
) -> tuple[Path, str, Rank]:
    """Return the site's file, its task, and its rank among the sites that share the file."""
    alone_or_all = rank_of(info)[1] if info.index is not None else ALONE
    reject_names_in_a_file(root, {"data.file": settings.file, "data.files": settings.files})
    if root.is_file():
        return root, info.task or root.stem, alone_or_all
    if settings.files is not None:
        return _assigned(settings.files, root, info, name)
    if settings.file is not None:
        path = file_inside(root, settings.file, "data.file")
        return path, info.task or path.stem, alone_or_all
    if info.task is not None:
        path = file_inside(root, f"{info.task}.npz", "this site's task")
        return path, info.task, alone_or_all
    return _by_index(root, info)


def _assigned(
    files: Mapping[str, str], root: Path, info: SiteInfo, name: str
) -> tuple[Path, str, Rank]:
    if name not in files:
        raise UserError(f"data.files: no site {name!r}; there is {nearest(name, files)}")
    path = file_inside(root, files[name], f"data.files, site {name!r}")
    sharing = sorted(site for site, file in files.items() if file == files[name])
    rank = ALONE if info.index is None else Rank(sharing.index(name), len(sharing))
    return path, info.task or path.stem, rank


def _by_index(root: Path, info: SiteInfo) -> tuple[Path, str, Rank]:
    """Return the file of site ``i``: the ``i % n``-th of ``n`` files, each of which is a task."""
    found = sorted(path for path in root.glob("*.npz") if not path.name.startswith("."))
    if not found:
        raise UserError(
            describe_root(root) + ": has no .npz file; put one there, such as pneumoniamnist.npz"
        )
    if info.index is None and len(found) > 1:
        raise UserError(
            describe_root(root)
            + f": has {len(found)} npz files: name this site's in its node config, "
            "as in --node-config 'task=\""
            + private(found[0].stem, "...")
            + "\"', or give data.file"
        )
    number, rank = rank_of(info, len(found))
    return file_inside(root, found[number].name, "data-root"), found[number].stem, rank


@lru_cache(maxsize=2)
def _read_cached(stamped: Stamp, largest: int) -> Collection:
    """Read a file once for all sites of a simulation."""
    path = stamped[0]
    names = [f"{split}_{kind}" for split in SPLITS for kind in ("images", "labels")]
    arrays = read_npz(path, names, largest=largest)
    images = [_images(path, f"{split}_images", arrays) for split in SPLITS]
    labels = [_labels(path, f"{split}_labels", arrays) for split in SPLITS]
    for split, pictures, numbers in zip(SPLITS, images, labels, strict=True):
        if len(pictures) != len(numbers):
            counts = f": {len(pictures)} {split}_images but {len(numbers)} {split}_labels"
            raise UserError(describe_file(path) + counts)
        if pictures.shape[1:] != images[0].shape[1:]:
            raise UserError(
                describe_file(path) + f": {split}_images have another size than train_images"
            )
    split_of = np.repeat(np.arange(3), [len(numbers) for numbers in labels])
    return Collection(np.concatenate(images), np.concatenate(labels), split_of)


def _images(path: Path, name: str, arrays: Mapping[str, NDArray[Any]]) -> NDArray[np.uint8]:
    """Return one split's pictures as uint8 ``(n, h, w, c)``."""
    array = arrays[name]
    if array.dtype != np.uint8:
        raise UserError(describe_file(path) + f": {name} is {array.dtype}, not uint8")
    if array.ndim == 3:
        array = array[..., None]
    if array.ndim != 4 or array.shape[3] not in (1, 3) or 0 in array.shape[1:]:
        raise UserError(
            describe_file(path)
            + f": {name} has shape {arrays[name].shape}; only flat pictures are read, "
            "(n, height, width) or (n, height, width, 3), not volumes"
        )
    return array


def _labels(path: Path, name: str, arrays: Mapping[str, NDArray[Any]]) -> NDArray[np.int64]:
    array = arrays[name]
    if array.ndim == 2 and array.shape[1] > 1:  # one label has the shape (n, 1)
        raise UserError(
            describe_file(path)
            + f": {name} has {array.shape[1]} labels per picture; several labels per "
            "picture (as in ChestMNIST) are not supported, choose a file with one"
        )
    return whole_numbers(array, 0, MOST_CLASSES - 1, describe_file(path) + f", {name}")


def _classes(
    settings: MedmnistOptions, task: str, collection: Collection, path: Path
) -> tuple[str, ...]:
    """Return the configured names, or "0", "1", ... up to the highest label in the file."""
    highest = int(collection.labels.max(initial=0))
    if settings.classes is None:
        return tuple(map(str, range(max(2, highest + 1))))
    if task not in settings.classes:
        raise UserError(
            "data.classes: "
            + private(f"no task {task!r}", "this site's task is missing")
            + private(f"; there is {nearest(task, settings.classes)}")
        )
    names = tuple(settings.classes[task])
    if len(set(names)) < max(2, len(names)):
        raise UserError(f"data.classes, task {task!r}: two classes or more, each once; {names}")
    if highest >= len(names):
        raise UserError(
            describe_file(path)
            + ": has "
            + private(f"label {highest}", "a higher label")
            + f", but data.classes of task {task!r} ends at {len(names) - 1} ({names[-1]!r})"
        )
    return names


def _split(
    settings: MedmnistOptions, collection: Collection, rows: NDArray[np.int64], path: Path
) -> Split:
    images = collection.images[rows]
    if images.shape[3] > settings.channels:
        raise UserError(describe_file(path) + ": has pictures in color; use data.channels=3")
    if images.shape[3] < settings.channels:
        images = np.repeat(images, settings.channels, axis=3)
    if settings.size is not None:
        images = _resized(images, settings.size)
    inputs = ArrayInputs(images, tuple(settings.mean), tuple(settings.std))
    return Split(inputs, collection.labels[rows])


def _resized(images: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Scale uint8 ``(n, h, w, c)`` to ``(n, size, size, c)``, bilinear with antialiasing."""
    if images.shape[1:3] == (size, size):
        return images
    made = np.empty((len(images), size, size, images.shape[3]), dtype=np.uint8)
    for number, image in enumerate(images):
        picture = Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image)
        scaled = np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR))
        made[number] = scaled.reshape(size, size, images.shape[3])
    return made
