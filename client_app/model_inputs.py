"""Files as a model's card says, read by the code that reads them for training."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from client_app.data.arrays import read_npz
from client_app.data.findings import Findings
from client_app.data.formats import is_picture
from client_app.data.paths import describe_file, file_inside
from client_app.data.pictures import Picture, PictureCache, PictureInputs
from client_app.data.pixels import VERSION, Preparation
from client_app.data.tables import TableFormat, describe_line, table_rows
from client_app.data.tabular.reading import SUFFIXES
from client_app.data.tokens import NoTokens, TokenInputs, token_ids, tokenizer_digest
from client_app.data.walking import walk
from client_app.model_tables import read_rows
from fedstrata.support.errors import UserError, private
from models.model_card import PUBLIC, ModelCard
from models.preprocessing import Measurements, Pictures, Table, Text
from models.text_folders import read_architecture, read_tokenizer
from models.training.data import ArrayInputs, Inputs, Subset

MEMORY = 512 << 20  # bytes of decoded pictures, and of a table
AT_ONCE = 64  # files between two steps of the progress
Place = tuple[Path, int]
OfRun = Mapping[Path, Collection[int]]
Progress = Callable[[int, int], None]  # how many files of how many are read


@dataclass(frozen=True)
class ModelInputs:
    """What a model can be used on.

    Parameters
    ----------
    inputs : Inputs
        As the network takes them.
    places : tuple of (Path, int)
        The file of each, and the line, row or picture in it.
    wrong : tuple of str
        What was left out, and why, each with its file.
    notes : tuple of str
        What was put in where nothing is known.
    """

    inputs: Inputs
    places: tuple[Place, ...]
    wrong: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def take(self, rows: Sequence[int]) -> ModelInputs:
        """Return some of them, in that order."""
        chosen = np.array(rows, dtype=np.int64)
        return replace(
            self, inputs=Subset(self.inputs, chosen), places=tuple(self.places[r] for r in rows)
        )


def files_of(card: ModelCard, given: Sequence[Path], manifest: Path | None = None) -> list[Path]:
    """Return the files that a command line names: files, all of a folder, or those of a manifest.

    Raises
    ------
    UserError
        A folder has no file that this model takes, a manifest names none, or nothing is given.
    """
    found = [path for each in given for path in _expanded(card, each)]
    if manifest is not None:
        root = manifest.parent
        rows = table_rows(manifest, ["path"])
        found += [file_inside(root, row["path"], f"line {line}") for line, row in rows]
    if not found:
        raise UserError("no files: name files, a folder, or --manifest FILE")
    return list(dict.fromkeys(found))


def _expanded(card: ModelCard, given: Path) -> Iterator[Path]:
    if not given.is_dir():
        yield given
        return
    takes: dict[type, Callable[[PurePosixPath], bool]] = {
        Pictures: is_picture,
        Table: _is_table,
        Text: _is_csv,
        Measurements: _is_npz,
    }
    wanted = takes.get(type(card.preprocessing))
    if wanted is None:
        raise _no_preprocessing(card)
    names = [name for name, _ in walk(given, given, Findings()).below()]
    chosen = [name for name in names if wanted(PurePosixPath(name))]
    if not chosen:
        raise UserError(describe_file(given) + ": has no file that this model takes")
    for name in chosen:
        yield given / name


def _is_table(path: PurePosixPath) -> bool:
    return path.suffix.lower() in SUFFIXES


def _is_csv(path: PurePosixPath) -> bool:
    return path.suffix.lower() == ".csv"


def _is_npz(path: PurePosixPath) -> bool:
    return path.suffix.lower() == ".npz"


def read_inputs(
    card: ModelCard,
    paths: Sequence[Path],
    models_dir: Path,
    progress: Progress = lambda done, of: None,
    *,
    of_run: OfRun | None = None,
) -> ModelInputs:
    """Read files as the card says; what cannot be read is left out and named.

    Parameters
    ----------
    card : ModelCard
        Of the model.
    paths : sequence of Path
        The files.
    models_dir : Path
        Where the folder of a text model's tokenizer is.
    progress : callable
        Called with how many files were read.
    of_run : mapping of Path to collection of int, optional
        The lines of each file that are the run's own. Of tables and texts no others are read, and
        gaps are filled as the run did.

    Raises
    ------
    UserError
        The card does not say how files are prepared, this machine would prepare them otherwise,
        or no file can be read.
    """
    given = card.preprocessing
    if isinstance(given, Pictures):
        found = _pictures(given, paths, progress)
    elif isinstance(given, Table):
        found = _joined(paths, progress, lambda path: _table(given, path, of_run))
    elif isinstance(given, Text):
        found = _joined(paths, progress, _text_reader(given, models_dir, of_run))
    elif isinstance(given, Measurements):
        found = _joined(paths, progress, lambda path: _measurements(given, path))
    else:
        raise _no_preprocessing(card)
    if not found.places:
        raise UserError("no file can be read" + private(f": {'; '.join(found.wrong[:3])}"))
    return found


def _no_preprocessing(card: ModelCard) -> UserError:
    if card.state != PUBLIC:
        return UserError("the model's card does not say how files are prepared")
    return UserError(
        "this is the public part of a model, which does not say how files are prepared at a "
        "site: `fedstrata tune` makes a site's model of it"
    )


def _pictures(given: Pictures, paths: Sequence[Path], progress: Progress) -> ModelInputs:
    if given.decoder not in (0, VERSION):
        raise UserError(
            f"the model was trained on pictures as version {given.decoder} of the decoders gives "
            f"them, and this is version {VERSION}: use the fedstrata that trained it"
        )
    preparation = Preparation(
        given.size,
        given.channels,
        given.background,
        given.slices,
        given.nifti_axis,
        given.nifti_stride,
    )
    cache = PictureCache(preparation, MEMORY)
    pictures: list[Picture] = []
    wrong: list[str] = []
    for start in range(0, len(paths), AT_ONCE):
        for found in cache.examine(paths[start : start + AT_ONCE]):
            if isinstance(found, UserError):
                wrong.append(str(found))
            else:
                pictures += found
        progress(min(start + AT_ONCE, len(paths)), len(paths))
    inputs = PictureInputs(
        tuple(pictures),
        cache,
        given.mean,
        given.std,
        given.span,
        given.for_all,
        given.window_of_file,
    )
    places = tuple((picture.path, picture.frame) for picture in pictures)
    return ModelInputs(inputs, places, tuple(wrong))


def _joined(
    paths: Sequence[Path], progress: Progress, read: Callable[[Path], ModelInputs]
) -> ModelInputs:
    """Return what is read of each file, one after the other."""
    parts: list[ModelInputs] = []
    wrong: list[str] = []
    for number, path in enumerate(paths, start=1):
        try:
            parts.append(read(path))
        except (UserError, OSError) as error:
            wrong.append(str(error))
        progress(number, len(paths))
    values: list[Any] = []
    notes = tuple(note for part in parts for note in part.notes)
    for part in parts:
        held = part.inputs
        assert isinstance(held, TokenInputs | ArrayInputs)
        if len(held):
            values.append(held.ids if isinstance(held, TokenInputs) else held.values)
        wrong += part.wrong
    places = tuple(place for part in parts for place in part.places)
    if not places:
        return ModelInputs(ArrayInputs(np.empty((0, 1), np.float32)), (), tuple(wrong))
    whole: Any = np.concatenate(values)
    inputs: Inputs = TokenInputs(whole) if whole.dtype == np.int32 else ArrayInputs(whole)
    return ModelInputs(inputs, places, tuple(wrong), notes)


def _table(given: Table, path: Path, of_run: OfRun | None) -> ModelInputs:
    found = read_rows(given, path, None if of_run is None else of_run.get(path, ()))
    places = tuple((path, line) for line in found.lines)
    return ModelInputs(ArrayInputs(found.values), places, found.wrong, found.notes)


def _text_reader(
    given: Text, models_dir: Path, of_run: OfRun | None
) -> Callable[[Path], ModelInputs]:
    folder = models_dir / given.folder
    tokenizer = read_tokenizer(folder)
    vocabulary = read_architecture(folder).vocabulary
    if tokenizer_digest(tokenizer) != given.tokenizer:
        raise UserError(
            "this machine's transformers reads the model's tokenizer otherwise than that which "
            "trained it: install the version of the site"
        )

    def ids_of(path: Path, rows: Sequence[tuple[int, str]]) -> NDArray[np.int32]:
        return token_ids(
            tokenizer,
            [text for _, text in rows],
            [describe_line(path, line) for line, _ in rows],
            length=given.length,
            vocabulary=vocabulary,
        )

    def read(path: Path) -> ModelInputs:
        written = TableFormat(given.delimiter, given.encoding)
        rows = [
            (line, row[given.column])
            for line, row in table_rows(path, [given.column], written)
            if of_run is None or line in of_run.get(path, ())
        ]
        wrong = tuple(
            str(UserError(describe_line(path, line) + f": the column {given.column!r} is empty"))
            for line, text in rows
            if not text
        )
        rows = [(line, text) for line, text in rows if text]
        try:
            ids = ids_of(path, rows)
        except NoTokens as found:
            wrong += tuple(
                str(UserError(describe_line(path, rows[row][0]) + f": {found.reason}"))
                for row in found.rows
            )
            rows = [each for row, each in enumerate(rows) if row not in set(found.rows)]
            ids = ids_of(path, rows)
        return ModelInputs(TokenInputs(ids), tuple((path, line) for line, _ in rows), wrong)

    return read


def _measurements(given: Measurements, path: Path) -> ModelInputs:
    values = read_npz(path, ["x"], largest=MEMORY)["x"]
    if values.ndim != 2 or values.shape[1] != given.count or values.dtype.kind != "f":
        raise UserError(
            describe_file(path) + f": x has shape {values.shape}; rows of {given.count} numbers "
            "are needed"
        )
    whole = np.isfinite(values).all(axis=1)
    wrong = tuple(
        str(UserError(describe_file(path) + f", row {row}: has values that are not finite"))
        for row in np.flatnonzero(~whole).tolist()
    )
    places = tuple((path, row) for row in np.flatnonzero(whole).tolist())
    return ModelInputs(ArrayInputs(values[whole].astype(np.float32)), places, wrong)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, or "" where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def batches(inputs: Inputs, size: int) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield the inputs in batches, each with the number of its first."""
    for start in range(0, len(inputs), size):
        yield start, inputs.batch(np.arange(start, min(start + size, len(inputs))))
