"""MedMNIST ``.npz`` files (Yang et al., Scientific Data 2023), one per site or per task."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from client_app.data.arrays import Stamp, read_npz, stamp
from client_app.data.duplicates import (
    KEEP,
    Examples,
    check_policy,
    numbered_contents,
    settle_duplicates,
)
from client_app.data.medmnist_labels import (
    class_names,
    kind_of_labels,
    label_names,
    number_names,
    read_labels,
    require_names,
)
from client_app.data.normalization import check_normalization, some_of, warn_of_small_range
from client_app.data.paths import describe_file, describe_root, file_inside, reject_names_in_a_file
from client_app.data.picture_sizes import sizes_of
from client_app.data.sharing import note_absent
from client_app.data.site_info import (
    SiteInfo,
    default_name,
    name_of_site,
    reject_empty_splits,
    require_root,
)
from client_app.data.site_split import (
    ALONE,
    BY_CLASS,
    COLUMN_SCHEMES,
    Rank,
    SiteSplit,
    rank_of,
    rows_of_site,
    seed_of_split,
)
from client_app.data.task_options import TaskOptions, read_tasks
from fedstrata.protocol.task_kinds import CLASSES, LABELS, NUMBER, ONE_CLASS_EACH, TaskKind
from fedstrata.support.errors import PrivateText, UserError, nearest, private
from fedstrata.support.options import read_options
from models.preprocessing import Pictures
from models.training.data import ArrayInputs, Labels, Places, SiteData, Split

SPLITS = ("train", "val", "test")  # in the names of arrays
SPLIT_NAMES = ("train", "validation", "test")


@dataclass(frozen=True)
class MedmnistOptions:
    """The options of ``conf/data/medmnist.yaml``, which says what each means."""

    file: str | None
    files: dict[str, str] | None
    task: str | None
    tasks: Any
    classes: dict[str, list[str]] | None
    channels: int
    size: int | None
    mean: list[float]
    std: list[float]
    largest_mb: int
    duplicates: str
    measure_on_all: bool
    site_split: SiteSplit

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise UserError(f"data.channels: 1 or 3, not {self.channels}")
        if self.size is not None and not 1 <= self.size <= 1024:
            raise UserError(f"data.size: {self.size} is not between 1 and 1024 pixels")
        check_normalization(self.mean, self.std, self.channels)
        check_policy(self.duplicates)
        if self.site_split.scheme in COLUMN_SCHEMES:
            scheme = self.site_split.scheme
            raise UserError(f"data.site_split.scheme: these files have no column for {scheme!r}")
        if self.file is not None and self.files is not None:
            raise UserError("data.file and data.files: give one of them, and null for the other")
        for task in self.described():
            if task.kind.name == CLASSES and task.kind != ONE_CLASS_EACH:
                raise UserError(f"data.tasks.{task.name}: write its kind, number or labels")

    def described(self) -> tuple[TaskOptions, ...]:
        """Return the tasks of which ``data.tasks`` says more than their name."""
        return read_tasks(self.tasks)

    def described_as(self, task: str) -> TaskOptions | None:
        """Return what ``data.tasks`` says of a task, or None."""
        return next((each for each in self.described() if each.name == task), None)


@dataclass(frozen=True)
class Collection:
    """The pictures of one file: training, then validation, then test.

    Parameters
    ----------
    images : NDArray[np.uint8]
        Shape ``(n, h, w, c)`` with one channel or three.
    labels : NDArray
        As in `Split`: class indices ``(n,)``, labels ``(n, C)`` or numbers ``(n, K)``.
    split : NDArray[np.int64]
        0, 1 or 2 for train, validation or test, shape ``(n,)``.
    copies : NDArray[np.int64]
        A number that pictures with the same content share, ``(n,)``.
    """

    images: NDArray[np.uint8]
    labels: Labels
    split: NDArray[np.int64]
    copies: NDArray[np.int64]

    def where(self, path: Path, row: int) -> PrivateText:
        """Return where a picture is, for texts."""
        number = row - int(np.count_nonzero(self.split < self.split[row]))
        return describe_file(path) + f", {SPLITS[self.split[row]]}_images, number {number}"


def load(options: Mapping[str, object], info: SiteInfo, seed: int) -> SiteData:
    """Return the site's share of its file, with the file's own splits.

    Raises
    ------
    UserError
        An option, the site info or the file is wrong.
    """
    settings = read_options(MedmnistOptions, options, "data")
    name = name_of_site(info, default_name(info))
    root = require_root(info)
    path, task, rank = _choose_file(settings, root, info, name)
    if not info.deployed:
        _reject_unknown_tasks(settings, task, root, path)
    described = settings.described_as(task)
    wanted = None if described is None else described.kind.name
    collection = _read_cached(stamp(path), settings.largest_mb << 20, wanted)
    kind = kind_of_labels(collection.labels, described)
    outputs = _outputs(settings, described, kind, task, collection, path, root, info)
    shared_seed = seed_of_split(seed, "medmnist", path.stem)
    by_class = _classes_to_split_by(settings.site_split, collection.labels, task, rank)
    # Copies that are kept are drawn as any others are: the user knows of them.
    units = None if settings.duplicates == KEEP else collection.copies
    rows = rows_of_site(settings.site_split, by_class, rank, shared_seed, units=units)
    rows_of_splits = _rows_of_splits(settings, collection, rows, path, info)
    height, width = collection.images.shape[1:3]
    count = sum(map(len, rows_of_splits))
    info.findings.sizes = sizes_of(
        {(width, height): count}, (settings.size or width, settings.size or height)
    )
    shape = (settings.channels, settings.size or height, settings.size or width)
    # Checked here, because scaling the pictures allocates this memory.
    size = math.prod(shape) * count
    if size > settings.largest_mb << 20:
        raise UserError(
            f"the pictures would take {size >> 20} MB with data.size={settings.size} and data.channels="
            f"{settings.channels}, and data.largest_mb is {settings.largest_mb}: lower or raise it"
        )
    train, validation, test = (
        _split(settings, collection, chosen, path) for chosen in rows_of_splits
    )
    _say_what_is_odd(collection, rows_of_splits, outputs, kind, info)
    prepared = _preprocessing(settings, shape, square=height == width)
    # In the file's own numbers: those of its array test_images.
    in_test = rows_of_splits[2] - int(np.count_nonzero(collection.split < 2))
    return reject_empty_splits(
        SiteData(
            *(name, task, outputs, shape, train, validation, test),
            kind=kind,
            source="" if info.deployed else path.stem,
            preprocessing=prepared,
            test_places=Places((path,) * len(in_test), tuple(in_test.tolist())),
        )
    )


def _rows_of_splits(
    settings: MedmnistOptions,
    collection: Collection,
    rows: NDArray[np.int64],
    path: Path,
    info: SiteInfo,
) -> list[NDArray[np.int64]]:
    """Return the site's rows of each split, without the copies that are not to be used."""
    names = [SPLIT_NAMES[number] for number in collection.split.tolist()]
    examples = Examples(
        collection.copies,
        collection.labels,
        names,
        None,
        lambda row: collection.where(path, row),
        "picture",
    )
    used = np.zeros(len(names), dtype=bool)
    used[settle_duplicates(examples, settings.duplicates, info.findings)] = True
    parts = [rows[collection.split[rows] == number] for number in range(3)]
    # A site with few classes would otherwise be tested on these few only.
    if settings.measure_on_all:
        parts[1:] = [np.flatnonzero(collection.split == number) for number in (1, 2)]
    return [part[used[part]] for part in parts]


def _say_what_is_odd(
    collection: Collection,
    parts: Sequence[NDArray[np.int64]],
    outputs: Sequence[str],
    kind: TaskKind,
    info: SiteInfo,
) -> None:
    """Warn of nearly black pictures, and note the classes without an example here."""
    looked_at = [collection.images[row] for row in some_of(parts[0].tolist())]
    warn_of_small_range(
        looked_at, "scale them in the file, or by data.mean and data.std", info.findings
    )
    if kind.name == CLASSES:
        found = set(collection.labels[np.concatenate(parts)].tolist())
        absent = [repr(name) for number, name in enumerate(outputs) if number not in found]
        note_absent(absent, info.findings)


def _preprocessing(
    settings: MedmnistOptions, shape: tuple[int, ...], *, square: bool
) -> Pictures | None:
    """Return what becomes of a picture; None of pictures that are not square: none is cut."""
    if not square or shape[1] != shape[2]:
        return None
    mean, std = tuple(settings.mean), tuple(settings.std)
    return Pictures(shape[1], 1 if shape[0] == 1 else 3, mean, std)


def _choose_file(
    settings: MedmnistOptions, root: Path, info: SiteInfo, name: str
) -> tuple[Path, str, Rank]:
    """Return the site's file, its task, and its rank among the sites that share the file."""
    if settings.task is not None and info.task not in (None, settings.task):
        raise UserError(
            f"this site's task {info.task!r} is not data.task={settings.task}, which every site has"
        )
    names_file = settings.task is None and info.task is not None
    rank = rank_of(info)[1] if info.index is not None else ALONE
    reject_names_in_a_file(root, {"data.file": settings.file, "data.files": settings.files})
    if root.is_file():
        path = root
    elif settings.files is not None:
        path, rank = _assigned(settings.files, root, info, name)
    elif settings.file is not None:
        path = file_inside(root, settings.file, "data.file")
    elif names_file:
        path = file_inside(root, f"{info.task}.npz", "this site's task")
    else:
        path, rank = _by_index(root, info, settings.task)
    return path, settings.task or info.task or path.stem, rank


def _assigned(files: Mapping[str, str], root: Path, info: SiteInfo, name: str) -> tuple[Path, Rank]:
    if name not in files:
        raise UserError(f"data.files: no site {name!r}; there is {nearest(name, files)}")
    path = file_inside(root, files[name], f"data.files, site {name!r}")
    sharing = sorted(site for site, file in files.items() if file == files[name])
    rank = ALONE if info.index is None else Rank(sharing.index(name), len(sharing))
    return path, rank


def _by_index(root: Path, info: SiteInfo, task: str | None) -> tuple[Path, Rank]:
    """Return the file of site ``i``: the ``i % n``-th of ``n`` files.

    Each of them is a task, unless ``task`` is that of all.
    """
    found = _npz_files(root)
    if not found:
        raise UserError(
            describe_root(root) + ": has no .npz file; put one there, such as pneumoniamnist.npz"
        )
    if info.index is None and len(found) > 1:
        first = private(found[0].stem, "...")
        how = "name this site's in its node config, as in --node-config 'task=\"" + first + "\"'"
        raise UserError(
            describe_root(root)
            + f": has {len(found)} npz files: "
            + (how if task is None else "name each site's in data.files")
            + ", or give data.file"
        )
    number, rank = rank_of(info, len(found))
    return file_inside(root, found[number].name, "data-root"), rank


def _reject_unknown_tasks(settings: MedmnistOptions, task: str, root: Path, path: Path) -> None:
    """Raise a `UserError` where ``data.tasks`` describes what is no task of the simulation."""
    for each in settings.described():
        known = [task]
        if settings.task is None:
            known += [file.stem for file in _files(settings, root, path)]
        if each.name not in known:
            there = private(f"; there is {nearest(each.name, known)}")
            raise UserError(f"data.tasks: no task {each.name!r} here" + there)


@lru_cache(maxsize=2)
def _read_cached(stamped: Stamp, largest: int, kind: str | None) -> Collection:
    """Read a file once for all sites of a simulation."""
    path = stamped[0]
    names = [f"{split}_{kind}" for split in SPLITS for kind in ("images", "labels")]
    arrays = read_npz(path, names, largest=largest)
    images = [_images(path, f"{split}_images", arrays) for split in SPLITS]
    labels = _labels(path, arrays, kind)
    for split, pictures, numbers in zip(SPLITS, images, labels, strict=True):
        if len(pictures) != len(numbers):
            counts = f": {len(pictures)} {split}_images but {len(numbers)} {split}_labels"
            raise UserError(describe_file(path) + counts)
        if pictures.shape[1:] != images[0].shape[1:]:
            raise UserError(
                describe_file(path) + f": {split}_images have another size than train_images"
            )
    split_of = np.repeat(np.arange(3), [len(numbers) for numbers in labels])
    together = np.concatenate(images)
    copies = numbered_contents(each.tobytes() for each in together)
    return Collection(together, np.concatenate(labels), split_of, copies)


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


def _labels(path: Path, arrays: Mapping[str, NDArray[Any]], kind: str | None) -> list[Labels]:
    """Return the labels of each split; UserError where splits have other numbers of labels."""
    found = []
    for split in SPLITS:
        name = f"{split}_labels"
        found.append(read_labels(arrays[name], kind, describe_file(path) + f", {name}"))
        here, first = (math.prod(each.shape[1:]) for each in (found[-1], found[0]))
        if here != first:
            raise UserError(
                describe_file(path)
                + f": {name} has {here} labels per picture, and train_labels {first}"
            )
    return found


@lru_cache(maxsize=256)
def _highest_class(stamped: Stamp, largest: int) -> int:
    """Return the highest class of a file."""
    arrays = read_npz(stamped[0], [f"{split}_labels" for split in SPLITS], largest=largest)
    return max(int(labels.max(initial=0)) for labels in _labels(stamped[0], arrays, CLASSES))


def _outputs(
    settings: MedmnistOptions,
    described: TaskOptions | None,
    kind: TaskKind,
    task: str,
    collection: Collection,
    path: Path,
    root: Path,
    info: SiteInfo,
) -> tuple[str, ...]:
    """Return the names of what is predicted; raise UserError where they do not fit the file."""
    where = describe_file(path)
    if kind.name == NUMBER:
        assert described is not None
        return number_names(described, collection.labels.shape[1], where)
    if info.deployed:
        require_names(settings.classes, task, kind.name)
    if kind.name == LABELS:
        return label_names(settings.classes, task, collection.labels.shape[1], where)
    highest = int(collection.labels.max(initial=0))
    if settings.classes is None and settings.task is not None:
        # The files are one task: all its sites need the classes of all files.
        largest = settings.largest_mb << 20
        highest = max(_highest_class(stamp(each), largest) for each in _files(settings, root, path))
    return class_names(settings.classes, task, highest, where)


def _files(settings: MedmnistOptions, root: Path, path: Path) -> list[Path]:
    """Return the files that the sites of a simulation have together."""
    if root.is_file() or settings.file is not None:
        return [path]
    if settings.files is not None:
        return sorted(file_inside(root, each, "data.files") for each in settings.files.values())
    return _npz_files(root)


def _npz_files(root: Path) -> list[Path]:
    return sorted(path for path in root.glob("*.npz") if not path.name.startswith("."))


def _classes_to_split_by(
    options: SiteSplit, labels: Labels, task: str, rank: Rank
) -> NDArray[np.int64]:
    """Return the classes by which the sites split a file; zeros for other kinds of tasks."""
    if labels.ndim == 1:
        return labels
    if options.scheme in BY_CLASS and rank.count > 1:
        raise UserError(
            f"data.site_split.scheme={options.scheme}: goes by classes, and task {task!r} has none; "
            "write data.site_split.scheme=iid"
        )
    return np.zeros(len(labels), dtype=np.int64)


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
