"""What a ServerApp says to people, line by line in a file: for the command that started it here."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

VARIABLE = "FEDSTRATA_SAID"  # the file, where somebody reads it
Kind = Literal["line", "error", "run", "sweep"]  # a run, or a sweep, by its folder's path
KINDS: tuple[Kind, ...] = ("line", "error", "run", "sweep")


@dataclass(frozen=True)
class Said:
    """One thing that was said."""

    kind: Kind
    text: str


def note_said(kind: Kind, text: str, variables: Mapping[str, str] = os.environ) -> None:
    """Append to the file that the environment names, if it names one."""
    if path := variables.get(VARIABLE):
        with Path(path).open("a") as file:
            file.write(json.dumps([kind, text]) + "\n")


class SaidLines:
    """Reads such a file while it grows.

    Parameters
    ----------
    path : Path
        The file, which need not be there yet.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0

    def new(self) -> Iterator[Said]:
        """Yield what was said since the last call; a line that is not whole comes later."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._read)
                content = file.read()
        except FileNotFoundError:
            return
        whole = content[: content.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.splitlines():
            try:
                kind, text = json.loads(line)
            except (ValueError, TypeError, RecursionError):
                continue
            if kind in KINDS and isinstance(text, str):
                yield Said(kind, text)
