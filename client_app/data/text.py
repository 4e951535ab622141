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
from client_app.data.cells import Cells, Faults, normal
from client_app.data.groups import likely_column
from client_app.data.labels import has_label, read_targets
from client_app.data.paths import describe_file
from client_app.data.sharing import ExampleOptions, Labelled, draw_splits, share_of_site
from client_app.data.site_files import choose_file
from client_app.data.site_info import (
    SiteInfo,
    default_name,
    name_of_site,
    reject_empty_splits,
    require_root,
)
from client_app.data.site_split import ALONE, SiteSplit, seed_of_split, task_and_rank
from client_app.data.splitting import check_fractions
from client_app.data.tables import TableFormat, describe_line, header_of, row_split, table_rows
from client_app.data.task_options import TaskOptions, read_tasks
from client_app.data.tokens import TokenInputs, token_ids, tokenizer_digest
from fedstrata.support.errors import PrivateText, UserError, private, private_reason
from fedstrata.support.folders import default_models_dir, model_folder
from fedstrata.support.options import read_options
from fedstrata.support.seeds import derive_seed
from models.preprocessing import Text
from models.text_folders import read_architecture, read_tokenizer
from models.training.data import Places, SiteData, Split


@dataclass(frozen=True)
class TextOptions(ExampleOptions):
    """The options of ``conf/data/text.yaml``, which says what each means."""

    file: str | None
    delimiter: str | None
    encoding: str | None
    text: str
    tasks: Any
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
        self.check_examples()
        self.table_format()
        if not 1 <= self.length <= 8192:
            raise UserError(f"data.length: {self.length} is not between 1 and 8192 tokens")
        if self.memory_mb < 1:
            raise UserError("data.memory_mb: at least 1")
        if not self.tasks:
            raise UserError("data.tasks: name at least one column with labels, as in [label]")

    def table_format(self) -> TableFormat:
        """Return how the files are written."""
        return TableFormat(self.delimiter, self.encoding)

    @property
    def most_rows(self) -> int:
        """The most texts whose ids fit into ``memory_mb``, with 4 bytes an id."""
        return (self.memory_mb << 20) // (4 * self.length)


@dataclass(frozen=True)
class Passage:
    """One text: its labels, its split, domain and group, and where its row is.

    Parameters
    ----------
    text : str
        Not empty.
    cells : tuple of str
        What stands in the columns of the site's task.
    split : str or None
        ``train``, ``validation`` or ``test``; None where the file has no column ``split``.
    domain : str
        Its value in the column of ``data.site_split``; empty without one.
    group : str
        Its value in the column of ``data.group``; empty without one.
    file, line : Path, int
        Where the row is.
    """

    text: str
    cells: tuple[str, ...]
    split: str | None
    domain: str
    group: str
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
    path, own_name = choose_file(require_root(info), info, settings.file, (".csv",))
    tasks = {task.name: task for task in read_tasks(settings.tasks)}
    task_name, rank = task_and_rank(info, list(tasks))
    task = tasks.get(task_name, TaskOptions(task_name, (task_name,)))
    shared = own_name is None  # a file of the site's own is not split
    passages, every = _passages(settings, path, task, info, shared=shared)
    shared_seed = seed_of_split(seed, "text", task.name)
    rank = rank if shared else ALONE
    share = share_of_site(every, settings, settings.site_split, rank, shared_seed, info)
    name = name_of_site(info, own_name or default_name(info))
    own = [passages[row] for row in share.rows]
    ids, digest = _ids(settings, info, own)
    order = {text: number for number, text in enumerate(dict.fromkeys(each.text for each in own))}
    parts = draw_splits(
        share,
        np.array([order[each.text] for each in own], dtype=np.int64),
        settings.validation_fraction,
        settings.test_fraction,
        derive_seed(seed, "text", "split", task.name, name),
        info.findings,
    )
    values = share.own.targets.values
    train, validation, test = (Split(TokenInputs(ids[part]), values[part]) for part in parts)
    source = share.source or (path.stem if own_name else "")
    classes, shape = every.targets.classes, (settings.length,)
    written = settings.table_format()
    data = SiteData(
        name,
        task.name,
        classes,
        shape,
        train,
        validation,
        test,
        kind=task.kind,
        source=source,
        preprocessing=Text(
            normal(settings.text),
            settings.length,
            settings.folder,
            digest,
            written.delimiter,
            written.encoding,
        ),
        test_places=Places(
            tuple(own[row].file for row in parts[2]), tuple(own[row].line for row in parts[2])
        ),
    )
    return reject_empty_splits(data)


def _passages(
    settings: TextOptions, path: Path, task: TaskOptions, info: SiteInfo, *, shared: bool
) -> tuple[list[Passage], Labelled]:
    """Return all texts of a file that have a label."""
    column = settings.site_split.required_column() if shared else None
    written = settings.table_format()
    group = settings.group or likely_column(header_of(path, written))
    wanted = _Wanted(settings.text, task.columns, column, group, settings.most_rows, written)
    split_names = tuple((settings.split_names or {}).items())
    passages = _read_cached(stamp(path), wanted, split_names)
    rules = settings.rules()
    _reject_empty_texts(
        [each for each in passages if has_label(each.cells, task, rules, settings.classes)],
        settings.text,
    )
    cells = Cells(
        list(zip(*(passage.cells for passage in passages), strict=True)),
        lambda row: passages[row].source,
        describe_file(path),
        "text",
    )
    targets = read_targets(
        cells,
        task,
        rules,
        settings.classes,
        deployed=info.deployed,
        findings=info.findings,
    )
    chosen = [passages[row] for row in targets.rows]
    order = {text: number for number, text in enumerate(dict.fromkeys(p.text for p in chosen))}
    return chosen, Labelled(
        targets,
        [passage.split for passage in chosen],
        np.array([order[passage.text] for passage in chosen], dtype=np.int64),
        lambda row: chosen[row].source,
        "text",
        [passage.domain for passage in chosen] if column else None,
        [passage.group for passage in chosen] if group else None,
        group or "",
        grouped=settings.group is not None,
    )


def _reject_empty_texts(passages: Sequence[Passage], column: str) -> None:
    faults = Faults()
    for passage in passages:
        if not passage.text:
            faults.add(passage.source + f": the column {column!r} is empty")
    faults.raise_any("")


@dataclass(frozen=True)
class _Wanted:
    """What is read of a file."""

    text: str
    labels: tuple[str, ...]
    column: str | None
    group: str | None
    most: int
    written: TableFormat


@lru_cache(maxsize=4)
def _read_cached(
    stamped: Stamp, wanted: _Wanted, split_names: tuple[tuple[str, str], ...]
) -> tuple[Passage, ...]:
    """Read a file once for all sites of a simulation that share it."""
    path = stamped[0]
    text, *labels = (normal(column) for column in (wanted.text, *wanted.labels))
    more = [normal(column) for column in (wanted.column, wanted.group) if column]
    passages: list[Passage] = []
    count = 0
    for line, row in table_rows(path, [text, *labels, *more], wanted.written):
        source = describe_line(path, line)
        cells = tuple(row[label] for label in labels)
        # read_targets leaves out what has no label, and counts it: a row without one may be anything
        used = any(cells)
        count += used
        if count > wanted.most:
            raise UserError(
                source + f": more than {wanted.most:,} texts, whose ids would take more than "
                "data.memory_mb: raise it, or lower data.length"
            )
        split = row_split(row, source, dict(split_names)) if used else None
        domain = normal(row[normal(wanted.column)]) if wanted.column else ""
        group = row[normal(wanted.group)] if wanted.group else ""
        passages.append(Passage(row[text], cells, split, domain, group, path, line))
    if not passages:
        named = " or ".join(map(repr, wanted.labels))
        raise UserError(describe_file(path) + f": no text has a label in column {named}")
    return tuple(passages)


def _ids(
    settings: TextOptions, info: SiteInfo, own: Sequence[Passage]
) -> tuple[NDArray[np.int32], str]:
    """Return the ids of texts, and the tokenizer's digest."""
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
    ids = token_ids(
        tokenizer,
        [passage.text for passage in own],
        [passage.source for passage in own],
        length=settings.length,
        vocabulary=vocabulary,
    )
    return ids, digest
