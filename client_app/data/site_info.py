"""What a loader knows of its site, and the checks that all loaders share."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from client_app.data.findings import Findings
from fedstrata.support.errors import UserError, private
from models.training.data import SiteData


@dataclass(frozen=True)
class SiteInfo:
    """What a loader may use to choose this site's data.

    Parameters
    ----------
    site : str or None
        The name in the site's node config; None in a simulation.
    task : str or None
        The task in the site's node config.
    index, count : int or None
        Flower's ``partition-id`` and ``num-partitions``; None where they are not given.
    root : Path or None
        The site's data folder or file, an absolute path.
    models_dir : Path or None
        The site's folder of models, which has the tokenizers; None for the default folder.
    deployed : bool
        Whether this is a real site, and not one of a simulation.
    cache_dir : Path or None
        Where the site keeps what can be made again, such as decoded pictures; None for nowhere.
    findings : Findings
        Where the loader says what it left out, guessed or replaced.
    """

    site: str | None
    task: str | None
    index: int | None
    count: int | None
    root: Path | None
    models_dir: Path | None = None
    deployed: bool = False
    cache_dir: Path | None = None
    findings: Findings = field(default_factory=Findings, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.index is None:
            return
        if self.index < 0 or (self.count is not None and self.index >= self.count):
            raise UserError(
                f"partition-id {self.index} is outside 0 to num-partitions - 1 "
                f"(num-partitions is {self.count}): correct the site's node config"
            )


def require_index(info: SiteInfo, what: str) -> tuple[int, int]:
    """Return ``(index, count)`` of the site, or raise a `UserError` that says how to set them."""
    if info.index is None or info.count is None:
        raise UserError(
            f"{what} needs to know which site this is: give it in the node config, "
            "as in --node-config 'partition-id=0 num-partitions=10'"
        )
    return info.index, info.count


def require_root(info: SiteInfo) -> Path:
    """Return the site's data folder or file, after opening it once.

    Raises
    ------
    UserError
        The node config has no ``data-root``, or it does not exist.
    OSError
        It cannot be opened.
    """
    if info.root is None:
        raise UserError(
            "this data set is read from disk: give the site's absolute folder as data-root, "
            'for example data-root="/data/site"'
        )
    if not info.root.is_absolute():
        raise UserError(
            private(f"data-root {str(info.root)!r}: ") + "data-root must be an absolute path: "
            "the app does not run in the user's folder"
        )
    # ``glob`` calls a folder that may not be read empty, so permission is tried here.
    try:
        os.close(os.open(info.root, os.O_RDONLY))
    except FileNotFoundError:
        raise UserError(
            "data-root" + private(f" {str(info.root)!r}") + " does not exist on this site's machine"
        ) from None
    return info.root


def name_of_site(info: SiteInfo, otherwise: str) -> str:
    """Return the name in the node config, or ``otherwise``."""
    return info.site or otherwise


def default_name(info: SiteInfo) -> str:
    """Return ``site-00``, ``site-01``, ... by the site's index, or ``site`` without one."""
    return "site" if info.index is None else f"site-{info.index:02d}"


def reject_empty_splits(data: SiteData) -> SiteData:
    """Return ``data``, or raise a `UserError` where a split has no examples."""
    sizes = {"train": len(data.train), "validation": len(data.validation), "test": len(data.test)}
    empty = [name for name, size in sizes.items() if not size]
    if empty:
        raise UserError(
            private(f"site {data.site!r}, task {data.task!r}: ")
            + f"no examples in {' and '.join(empty)} (train, validation and test have "
            f"{', '.join(map(str, sizes.values()))}): "
            "give this site more examples, or change the fractions or the split among sites in data"
        )
    return data
