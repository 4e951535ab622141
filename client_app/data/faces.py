"""Drawn faces: every site has its own people, its own camera and one of the tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from client_app.data.face_tasks import TASKS, kind_of_task, labels_of_task, outputs_of
from client_app.data.site_info import (
    SiteInfo,
    default_name,
    name_of_site,
    reject_empty_splits,
    require_index,
)
from fedstrata.drawn_faces import Camera, draw
from fedstrata.support.errors import UserError, nearest
from fedstrata.support.options import read_options
from fedstrata.support.seeds import derive_seed
from models.preprocessing import Pictures
from models.training.data import ArrayInputs, SiteData, Split

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


@dataclass(frozen=True)
class PublicFaces:
    """Pictures and people of the public set on which the backbone is pre-trained."""

    examples: int
    identities: int


@dataclass(frozen=True)
class Years:
    """By what the ages in years are standardized, and their unit."""

    mean: float
    std: float
    unit: str

    def __post_init__(self) -> None:
        if not self.std > 0:
            raise UserError(f"data.age_years.std: {self.std} is not a positive number")


@dataclass(frozen=True)
class FacesOptions:
    """The options of ``conf/data/faces.yaml``, which says what each means."""

    size: int
    tasks: tuple[str, ...]
    pictures: int | None
    train: int
    validation: int
    test: int
    identities: int
    cameras: bool
    age_years: Years
    public: PublicFaces

    def __post_init__(self) -> None:
        if not self.tasks:
            raise UserError(f"data.tasks: name at least one of {nearest('', TASKS)}")
        for task in self.tasks:
            if task not in TASKS:
                raise UserError(f"data.tasks: no attribute {task!r}; {nearest(task, TASKS)}")
        for name in ("size", "train", "validation", "test"):
            if getattr(self, name) < 1:
                raise UserError(f"data.{name}: {getattr(self, name)} is not a positive number")
        if self.identities < 3:
            raise UserError("data.identities: at least 3, so that no person is in two splits")
        if self.public.identities < 0:
            raise UserError("data.public.identities: not a negative number")


def load(options: Mapping[str, object], info: SiteInfo, seed: int) -> SiteData:
    """Draw the site's faces. No person is in two sites or in two splits.

    Raises
    ------
    UserError
        An option is wrong, or the site info has no index.
    """
    settings = read_options(FacesOptions, options, "data")
    index, count = require_index(info, "data 'faces'")
    settings = replace(settings, train=pictures_to_train(settings, index, count))
    task = _task(settings, info, index)
    drawn = {
        name: _draw_split(settings, task, index, name, first, identities, seed)
        for name, (first, identities) in people(settings, index).items()
    }
    splits = drawn["train"], drawn["validation"], drawn["test"]
    name = name_of_site(info, default_name(info))
    years = settings.age_years
    kind = kind_of_task(task, years.mean, years.std, years.unit)
    shape = (3, settings.size, settings.size)
    prepared = Pictures(settings.size, 3, MEAN, STD)
    data = SiteData(name, task, outputs_of(task), shape, *splits, kind=kind, preprocessing=prepared)
    return reject_empty_splits(data)


def pictures_to_train(settings: FacesOptions, index: int, count: int) -> int:
    """Return how many pictures site ``index`` of ``count`` trains on.

    This is ``train``. With ``pictures``, the number of pictures of all sites, it is the site's
    share without ``validation`` and ``test``. The first sites have one more than the last.

    Raises
    ------
    UserError
        The site's share leaves nothing to train on.
    """
    if settings.pictures is None:
        return settings.train
    own = settings.pictures // count + (index < settings.pictures % count)
    held_out = settings.validation + settings.test
    if own <= held_out:
        raise UserError(
            f"data.pictures: {settings.pictures} over {count} sites are {own} at site {index}, and "
            f"data.validation={settings.validation} with data.test={settings.test} leaves none of "
            f"them to train on: use data.pictures={count * (held_out + 1)} or more, fewer sites, "
            "or smaller data.validation and data.test"
        )
    return own - held_out


def people(settings: FacesOptions, index: int) -> dict[str, tuple[int, int]]:
    """Return the people of each split of site ``index`` as ``(first identity, how many)``.

    The first ``public.identities`` people belong to the public set, the next ``identities`` to
    site 0, and so on. Each split has people in proportion to its examples, and at least one.
    """
    total = settings.train + settings.validation + settings.test
    spare = settings.identities - 3  # each split has one person before these are distributed
    validation = 1 + spare * settings.validation // total
    test = 1 + spare * settings.test // total
    train = settings.identities - validation - test
    first = settings.public.identities + index * settings.identities
    return {
        "train": (first, train),
        "validation": (first + train, validation),
        "test": (first + train + validation, test),
    }


def _task(settings: FacesOptions, info: SiteInfo, index: int) -> str:
    if info.task is None:
        return settings.tasks[index % len(settings.tasks)]
    if info.task not in settings.tasks:
        raise UserError(
            f"this site's task {info.task!r} is not among data.tasks, which has "
            f"{nearest(info.task, settings.tasks)}"
        )
    return info.task


def _draw_split(
    settings: FacesOptions,
    task: str,
    index: int,
    split: str,
    first: int,
    identities: int,
    seed: int,
) -> Split:
    camera = Camera.neutral()
    if settings.cameras:
        camera = Camera.random(derive_seed(seed, "faces", "camera", index))
    drawn = draw(
        getattr(settings, split),
        seed=derive_seed(seed, "faces", index, split),
        identities=identities,
        first_identity=first,
        camera=camera,
        size=settings.size,
    )
    return Split(ArrayInputs(drawn.images, MEAN, STD), labels_of_task(task, drawn))
