"""What is read of a published data set, before it is split among sites."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client_app.data.duplicates import numbered_contents
from client_app.data.paths import describe_file, describe_root, file_inside
from fedstrata.support.errors import PrivateText, UserError

Values = NDArray[np.uint8] | NDArray[np.float32]
READ_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class Published:
    """All examples of a data set: those of its files for training, then those for testing.

    Parameters
    ----------
    classes : tuple of str
        Names of the classes.
    labels : NDArray[np.int64]
        Class indices, ``(n,)``.
    tested : NDArray[np.bool_]
        Which examples stand in the files for testing, ``(n,)``.
    values : callable
        Returns the inputs of some rows: images as uint8 ``(m, h, w, c)``, or float32 ``(m, d)``.
    copies : NDArray[np.int64]
        A number that examples with the same content share, ``(n,)``.
    where : callable
        Returns where example ``i`` stands, for texts.
    place : callable
        Returns the same as a file and a number in it.
    what : str
        What one is: ``picture``, ``text`` or ``window``.
    """

    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    tested: NDArray[np.bool_]
    values: Callable[[NDArray[np.int64]], Values]
    copies: NDArray[np.int64]
    where: Callable[[int], PrivateText]
    place: Callable[[int], tuple[Path, int]]
    what: str


def of_pictures(
    classes: Sequence[str],
    parts: Sequence[tuple[NDArray[np.uint8], NDArray[np.int64], Path, bool]],
) -> Published:
    """Return the data set of pictures in memory: of each file its pictures, labels, and its side.

    Parameters
    ----------
    classes : sequence of str
        Their names.
    parts : sequence of tuple
        ``(images uint8 (n, h, w, c), labels (n,), file, whether it is for testing)``.

    Raises
    ------
    UserError
        A label is too high, or pictures have several sizes.
    """
    for images, labels, path, _ in parts:
        if images.shape[1:] != parts[0][0].shape[1:]:
            raise UserError(describe_file(path) + ": has pictures of another size than the others")
        if len(labels) and int(labels.max()) >= len(classes):
            raise UserError(
                describe_file(path)
                + f": has the label {int(labels.max())}, and the data set has {len(classes)} classes"
            )
    images = np.concatenate([part[0] for part in parts])
    sizes = [len(part[1]) for part in parts]
    starts = np.cumsum([0, *sizes])

    def place(row: int) -> tuple[Path, int]:
        number = int(np.searchsorted(starts, row, side="right")) - 1
        return parts[number][2], row - int(starts[number])

    def where(row: int) -> PrivateText:
        path, number = place(row)
        return describe_file(path) + f", picture {number + 1}"

    return Published(
        tuple(classes),
        np.concatenate([part[1] for part in parts]).astype(np.int64),
        np.repeat([part[3] for part in parts], sizes),
        lambda rows: images[rows],
        numbered_contents(each.tobytes() for each in images),
        where,
        place,
        "picture",
    )


def folder_with(root: Path, folders: Sequence[str], names: Sequence[str]) -> Path | None:
    """Return the first of ``folders`` inside ``root`` that has a file of ``names``, or None."""
    for folder in folders:
        if any((root / folder / name).is_file() for name in names):
            return root / folder
    return None


def one_of(root: Path, folder: Path, names: Sequence[str]) -> Path:
    """Return the first of ``names`` in ``folder``, which is inside ``root``.

    Raises
    ------
    UserError
        There is none, or it is a link that leaves ``root``.
    """
    for name in names:
        if (folder / name).is_file():
            return file_inside(root, str((folder / name).relative_to(root)), "data.dataset")
    raise missing(root, names)


def missing(root: Path, names: Sequence[str]) -> UserError:
    """Return the error for a data set of which no file is there."""
    return UserError(describe_root(root) + f": has no {' nor '.join(names)}")


def read_all(path: Path, size: int, opened: Any) -> bytearray:
    """Return exactly ``size`` bytes of an open file; raise UserError where there are fewer."""
    found = bytearray()
    while len(found) < size:
        piece = opened.read(min(READ_AT_ONCE, size - len(found)))
        if not piece:
            raise UserError(describe_file(path) + f": ends after {len(found)} of {size} bytes")
        found += piece
    return found
