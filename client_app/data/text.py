"""Texts with labels from CSV files, one per site or one for all sites, as token ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client_app.data.arrays import Stamp, stamp
from client_app.data.classes import class_names
from client_app.data.paths import (
    describe_file,
    describe_root,
    file_inside,
    reject_escape,
    reject_names_in_a_file,
)
from client_app.data.site_info import (
    SiteInfo,
    default_name,
    name_of_site,
    reject_empty_splits,
    require_root,
)
from client_app.data.site_split import (
    ALONE,
    Rank,
    SiteSplit,
    rows_of_site,
    seed_of_split,
    task_and_rank,
)
from client_app.data.splitting import check_fractions, fill_missing_splits, fractions_to_draw
from client_app.data.tables import describe_line, row_split, table_rows
from client_app.data.tokens import TokenInputs, token_ids, tokenizer_digest
from fedstrata.support.errors import PrivateText, UserError, private, private_reason
from fedstrata.support.folders import default_models_dir, model_folder
from fedstrata.support.options import read_options
from fedstrata.support.seeds import derive_seed
from models.text_folders import read_architecture, read_tokenizer
from models.training.data import SiteData, Split


@dataclass(frozen=True)
class TextOptions:
    """The options of ``conf/data/text.yaml``, which says what each means."""

    file: str | None
    text: str
    tasks: list[str]
    classes: dict[str, list[str]] | None
    folder: str
    tokenizer: str | None
    length: int
    validation_fraction: float
    test_fraction: float
    memory_mb: int
    site_split: SiteSplit

    def __post_init__(self) -> None:
        check_fractions(self.validation_fraction, self.test_fraction)
        if not 1 <= self.length <= 8192:
            raise UserError(f"data.length: {self.length} is not between 1 and 8192 tokens")
        if self.memory_mb < 1:
            raise UserError("data.memory_mb: at least 1")
        if not self.tasks:
            raise UserError("data.tasks: name at least one column with labels, as in [label]")

    @property
    def most_rows(self) -> int:
        """The most texts whose ids fit into ``memory_mb``, with 4 bytes an id."""
        return (self.memory_mb << 20) // (4 * self.length)


@dataclass(frozen=True)
class Passage:
    """One text: its class, its split and domain, and where its row is.

    Parameters
    ----------
    text : str
        Not empty.
    label : str
        Its class for the site's task.
    split : str or None
        ``train``, ``validation`` or ``test``; None where the file has no column ``split``.
    domain : str
        Its value in the column of ``data.site_split``; empty without one.
    file, line : Path, int
        Where the row is.
    """

    text: str
    label: str
    split: str | None
    domain: str
    file: Path
    line: int

    @property
    def source(self) -> PrivateText:
        """File and line, for an error text."""
        return describe_line(self.file, self.line)


def load(options: Mapping[str, object], info: SiteInfo, seed: int) -> SiteData:
    """Return the site's texts as token ids.

    Raises
    ------
    UserError
        An option, the site info, the model's folder, a file or a row is wrong.
    """
    settings = read_options(TextOptions, options, "data")
    path, own_name = _choose_file(settings, require_root(info), info)
    task, rank = task_and_rank(info, settings.tasks)
    shared = own_name is None  # a file of the site's own is not split
    column = settings.site_split.required_column() if shared else None
    passages = _read_cached(stamp(path), settings.text, task, column, settings.most_rows)
    # reversed, so that the first row of each class is the one in an error
    found = {passage.label: passage.source for passage in reversed(passages)}
    classes = class_names(settings.classes, task, found, deployed=info.deployed)
    labels = np.array([classes.index(each.label) for each in passages], dtype=np.int64)
    rows = _share(settings, passages, labels, rank if shared else ALONE, seed, task)
    name = name_of_site(info, own_name or default_name(info))
    given = {passage.split for passage in passages}
    fractions = fractions_to_draw(given, settings.validation_fraction, settings.test_fraction)
    own = [passages[row] for row in rows]
    split_seed = derive_seed(seed, "text", "split", task, name)
    splits = _draw_splits(settings, info, own, labels[rows], fractions, split_seed)
    data = SiteData(name, task, classes, (settings.length,), *splits)
    return reject_empty_splits(data)


def _choose_file(settings: TextOptions, root: Path, info: SiteInfo) -> tuple[Path, str | None]:
    """Return the site's file, and the site's name where each site has a file of its own.

    ``data.file`` or a single file is for all sites. Of several files, a deployed site has the one
    with its name. In a simulation site ``i`` has the ``i``-th in sorted order.
    """
    reject_names_in_a_file(root, {"data.file": settings.file})
    if root.is_file():
        return root, None
    if settings.file is not None:
        return file_inside(root, settings.file, "data.file"), None
    found = sorted(path for path in root.glob("*.csv") if not path.name.startswith("."))
    if not found:
        raise UserError(
            describe_root(root) + ": has no .csv file; put one there, or name it in data.file"
        )
    for path in found:
        reject_escape(root, path)
    if len(found) == 1:
        return found[0], None
    named = {path.stem: path for path in found}
    if info.site is not None and info.site in named:
        return named[info.site], info.site
    if info.site is None and info.index is not None:
        if info.index < len(found):
            return found[info.index], found[info.index].stem
        raise UserError(
            describe_root(root) + f": has {len(found)} csv files, one a site: start as many sites, "
            f"with --federation-config 'num-supernodes={len(found)}', or name one in data.file"
        )
    raise UserError(
        describe_root(root) + f": has {len(found)} csv files, none of them "
        f"{info.site or 'this site'}.csv: rename this site's file, remove the others, or name "
        "it in data.file"
    )


@lru_cache(maxsize=4)
def _read_cached(
    stamped: Stamp, text: str, task: str, column: str | None, most: int
) -> tuple[Passage, ...]:
    """Read a file once for all sites of a simulation that share it."""
    path = stamped[0]
    passages: list[Passage] = []
    for line, row in table_rows(path, [text, task, *([column] if column else [])]):
        source = describe_line(path, line)
        if not row[task]:
            continue
        if not row[text]:
            raise UserError(source + f": the column {text!r} is empty")
        if len(passages) == most:
            raise UserError(
                source + f": more than {most:,} texts, whose ids would take more than "
                "data.memory_mb: raise it, or lower data.length"
            )
        split = row_split(row, source)
        value = row[column] if column else ""
        passages.append(Passage(row[text], row[task], split, value, path, line))
    if not passages:
        raise UserError(describe_file(path) + f": no text has a label in column {task!r}")
    return tuple(passages)


def _share(
    settings: TextOptions,
    passages: Sequence[Passage],
    labels: NDArray[np.int64],
    rank: Rank,
    seed: int,
    task: str,
) -> NDArray[np.int64]:
    domains = np.array([passage.domain for passage in passages], dtype=np.str_)
    shared_seed = seed_of_split(seed, "text", task)
    return rows_of_site(settings.site_split, labels, rank, shared_seed, domains)


def _draw_splits(
    settings: TextOptions,
    info: SiteInfo,
    own: Sequence[Passage],
    labels: NDArray[np.int64],
    fractions: tuple[float, float],
    seed: int,
) -> tuple[Split, Split, Split]:
    """Put each of the site's own texts into its split, and copies of a text into the same."""
    ids = _ids(settings, info, own)
    order = {text: number for number, text in enumerate(dict.fromkeys(p.text for p in own))}
    copies = np.array([order[passage.text] for passage in own], dtype=np.int64)
    parts = fill_missing_splits(
        [passage.split for passage in own],
        labels,
        validation=fractions[0],
        test=fractions[1],
        seed=seed,
        copies=copies,
    )
    train, validation, test = (Split(TokenInputs(ids[part]), labels[part]) for part in parts)
    return train, validation, test


def _ids(settings: TextOptions, info: SiteInfo, own: Sequence[Passage]) -> NDArray[np.int32]:
    named = f"{settings.folder[:80]!r} in the models folder"
    with private_reason(f"there is no folder {named} that can be used as data.folder"):
        folder = model_folder(settings.folder, info.models_dir or default_models_dir())
        tokenizer: Any = read_tokenizer(folder)
        vocabulary = read_architecture(folder).vocabulary
    digest = tokenizer_digest(tokenizer)
    if settings.tokenizer is not None and settings.tokenizer != digest:
        raise UserError(
            private(folder, named) + f": this site's tokenizer has the SHA-256 {digest}, but "
            f"data.tokenizer is {settings.tokenizer[:80]}: all sites need the same folder and "
            "version of transformers"
        )
    return token_ids(
        tokenizer,
        [passage.text for passage in own],
        [passage.source for passage in own],
        length=settings.length,
        vocabulary=vocabulary,
    )
