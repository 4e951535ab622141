"""Finds a data set by its name and loads the data of one site."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace

from client_app.data.faces import load as load_faces
from client_app.data.har import load as load_har
from client_app.data.har import site_sums as sums_of_har
from client_app.data.images import load as load_images
from client_app.data.medmnist import load as load_medmnist
from client_app.data.pflbench.loader import load as load_pflbench
from client_app.data.site_info import SiteInfo
from client_app.data.splitting import sample_per_class
from client_app.data.tabular.loader import load as load_tabular
from client_app.data.tabular.loader import site_categories as categories_of_table
from client_app.data.tabular.loader import site_sums as sums_of_table
from client_app.data.text import load as load_text
from fedstrata.protocol.categories import CategoriesReport
from fedstrata.protocol.sums import SumsReport
from fedstrata.protocol.task_kinds import CLASSES
from fedstrata.support.errors import UserError
from fedstrata.support.options import read_options
from fedstrata.support.registry import find
from fedstrata.support.seeds import derive_seed
from models.training.data import SiteData

Loader = Callable[[Mapping[str, object], SiteInfo, int], SiteData]

LOADERS: Mapping[str, Loader] = {
    "faces": load_faces,
    "har": load_har,
    "images": load_images,
    "medmnist": load_medmnist,
    "pflbench": load_pflbench,
    "tabular": load_tabular,
    "text": load_text,
}


SUMS: Mapping[str, Callable[[Mapping[str, object], SiteInfo, int], SumsReport]] = {
    "har": sums_of_har,
    "tabular": sums_of_table,
}
"""The data sets whose sites can send sums before the rounds."""

CATEGORIES: Mapping[str, Callable[[Mapping[str, object], SiteInfo], CategoriesReport]] = {
    "tabular": categories_of_table
}
"""The data sets whose sites can name the categories of their columns before they join."""


@dataclass(frozen=True)
class CommonOptions:
    """The options that every data set has beside its own.

    Parameters
    ----------
    labels_per_class : int or None
        The most training examples of each class that a site keeps; None keeps all.
    seed : int or None
        Decides which examples a site has, and in which split; None: the run's seed does.
    """

    labels_per_class: int | None
    seed: int | None

    def __post_init__(self) -> None:
        if self.seed is not None and self.seed < 0:
            raise UserError(
                f"data.seed: {self.seed} is not a whole number from 0 on; use null for the run's seed"
            )
        if self.labels_per_class is not None and self.labels_per_class < 1:
            raise UserError(
                f"data.labels_per_class: {self.labels_per_class} is not a whole number from 1 on; "
                "use null to keep every training example"
            )

    def seed_of(self, run: int) -> int:
        """Return the seed of the data of a run with the seed ``run``."""
        return run if self.seed is None else self.seed


COMMON = frozenset(option.name for option in fields(CommonOptions))


def load(name: str, options: Mapping[str, object], info: SiteInfo, seed: int) -> SiteData:
    """Return the data of one site.

    Parameters
    ----------
    name : str
        One of `LOADERS`.
    options : Mapping
        The configuration's ``data`` as plain values. The data set checks those that are not of
        `CommonOptions`.
    info : SiteInfo
        Which site this is and where its data are.
    seed : int
        The run's seed, of which ``data.seed`` takes the place where it is given. The same seed,
        options and data give the same splits.

    Raises
    ------
    UserError
        The name, an option or the site's data are wrong.
    """
    loader = find("data.name", name, LOADERS)
    settings, own = _common(options)
    seed = settings.seed_of(seed)
    data = loader(own, info, seed)
    if settings.labels_per_class is None:
        return data
    return _with_few_labels(data, settings.labels_per_class, seed)


def sums(name: str, options: Mapping[str, object], info: SiteInfo, seed: int) -> SumsReport:
    """Return the sums that one site sends before the rounds; arguments as of `load`.

    Raises
    ------
    UserError
        The data set has none, or as `load`.
    """
    add_up = SUMS.get(name)
    if add_up is None:
        raise UserError(f"data={name} has no sums to agree on; there are {', '.join(SUMS)}")
    settings, own = _common(options)
    return add_up(own, info, settings.seed_of(seed))


def categories(name: str, options: Mapping[str, object], info: SiteInfo) -> CategoriesReport:
    """Return the categories that one site names before it joins; arguments as of `load`.

    Raises
    ------
    UserError
        The data set has none, or as `load`.
    """
    find_all = CATEGORIES.get(name)
    if find_all is None:
        raise UserError(f"data={name} has no categories; there are {', '.join(CATEGORIES)}")
    return find_all(_common(options)[1], info)


def _common(options: Mapping[str, object]) -> tuple[CommonOptions, dict[str, object]]:
    """Return the options that all data sets have, and those of the data set itself."""
    common = {key: value for key, value in options.items() if key in COMMON}
    own = {key: value for key, value in options.items() if key not in COMMON}
    return read_options(CommonOptions, common, "data"), own


def _with_few_labels(data: SiteData, most: int, seed: int) -> SiteData:
    """Return ``data`` with at most ``most`` training examples of each class."""
    if data.kind.name != CLASSES:
        raise UserError(
            f"data.labels_per_class={most}: task {data.task!r} has no classes (kind "
            f"{data.kind.name}); write data.labels_per_class=null"
        )
    # The seed has the site's name, so that sites with the same data keep different examples.
    train = data.train
    drawn = sample_per_class(train.labels, most, derive_seed(seed, "few labels", data.site))
    return replace(data, train=train.take(drawn))
