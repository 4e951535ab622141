"""A sweep: several runs of one command. Its folder lies beside theirs and has the comparison."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from fedstrata.protocol.limits import NAME
from fedstrata.runs.folder import Given, default_folders, given_of
from fedstrata.support import checksums
from fedstrata.support.durable import replacing_private
from fedstrata.support.errors import UserError

FILE = "sweep.json"
MOST_BYTES = 16 * 2**20  # of the file


class _Content(msgspec.Struct, frozen=True):
    """The file."""

    experiment: str
    runs: list[tuple[str, tuple[str, ...]]]
    given: dict[str, Any]
    chosen: bool


@dataclass(frozen=True)
class Sweep:
    """What the folder of a sweep says.

    Parameters
    ----------
    path : Path
        The folder; its name is the sweep's.
    experiment : str
        The experiment of all runs.
    runs : mapping of str to tuple of str
        Each run's overrides, by its name, in the order in which they are played.
    given : Given
        What a person gave, to give it again.
    chosen : bool
        Whether a person chose the name.
    """

    path: Path
    experiment: str
    runs: Mapping[str, tuple[str, ...]]
    given: Given
    chosen: bool = False

    @property
    def name(self) -> str:
        """The sweep's name."""
        return self.path.name

    def folder_of(self, run: str) -> Path:
        """Return the folder of a run: beside that of the sweep."""
        return self.path.parent / run

    def runs_there(self) -> list[Path]:
        """Return the folders of its runs that there are."""
        return [path for path in map(self.folder_of, self.runs) if path.is_dir()]


def write_sweep(
    path: Path,
    experiment: str,
    runs: Mapping[str, Sequence[str]],
    given: Mapping[str, Any],
    *,
    chosen: bool = False,
) -> None:
    """Write down what a sweep is; raise UserError where its folder cannot be made."""
    content = {
        "experiment": experiment,
        "runs": [[name, list(overrides)] for name, overrides in runs.items()],
        "given": dict(given),
        "chosen": chosen,
    }
    try:
        with replacing_private(path / FILE) as unfinished:
            unfinished.write_text(json.dumps(checksums.with_checksum(content), indent=1))
    except OSError as error:
        raise UserError(f"output-dir: {path} cannot be made: {error}") from None


def read_sweep(path: Path) -> Sweep | None:
    """Return the sweep in a folder, or None where there is none.

    Raises
    ------
    UserError
        Its file is not as it was written.
    """
    file = path / FILE
    try:
        with file.open("rb") as opened:
            text = opened.read(MOST_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from None
    try:
        if len(text) > MOST_BYTES:
            raise ValueError(f"it has more than {MOST_BYTES} bytes")
        content = checksums.checked(json.loads(text))
        read = msgspec.convert(content, _Content)
        runs = dict(read.runs)
        if not all(map(NAME.fullmatch, runs)):
            raise ValueError("a run has a name that no folder can have")
    except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        raise UserError(f"{file} is none of a sweep: {error}") from None
    return Sweep(path, read.experiment, runs, given_of(read.given), read.chosen)


def find_sweep(wanted: str, folder: Path | None = None) -> Sweep | None:
    """Return the sweep that a person names, by its name or its folder; None where there is none.

    Names are looked for in ``folder``, or in `default_folders`.
    """
    if wanted in ("", ".", ".."):
        named = []
    else:
        named = [each / wanted for each in (default_folders() if folder is None else [folder])]
    for path in (*named, Path(wanted).expanduser().absolute()):
        if (found := read_sweep(path)) is not None:
            return found
    return None
