"""MNIST and FashionMNIST: pictures and labels in idx files, as they are or compressed with gzip."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from client_app.data.paths import describe_file
from client_app.data.pflbench.published import (
    Published,
    folder_with,
    missing,
    of_pictures,
    one_of,
    read_all,
)
from fedstrata.support.errors import UserError, private

DIGITS = tuple(map(str, range(10)))
CLOTHES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
_STEMS = (("train", False), ("t10k", True))
_BYTES = 0x08  # the type of the values: unsigned bytes


def read_mnist(root: Path, largest: int) -> Published:
    """Return MNIST; arguments and errors as of `read_fashion_mnist`."""
    return _read(root, "MNIST", DIGITS, largest)


def read_fashion_mnist(root: Path, largest: int) -> Published:
    """Return FashionMNIST.

    Parameters
    ----------
    root : Path
        The folder with the four files, or torchvision's folder above them.
    largest : int
        The most bytes of one file, unpacked.

    Raises
    ------
    UserError
        A file is missing, damaged or too large.
    """
    return _read(root, "FashionMNIST", CLOTHES, largest)


def has_files(root: Path, name: str) -> bool:
    """Return whether some file of ``name``, as torchvision calls the data set, is in ``root``."""
    return folder_with(root, _folders(name), _names("train", 3)) is not None


def _read(root: Path, name: str, classes: tuple[str, ...], largest: int) -> Published:
    folder = folder_with(root, _folders(name), _names("train", 3))
    if folder is None:
        raise missing(root, _names("train", 3))
    parts = []
    for stem, tested in _STEMS:
        pictures = one_of(root, folder, _names(stem, 3))
        images = read_idx(pictures, 3, largest)
        labels = read_idx(one_of(root, folder, _names(stem, 1)), 1, largest)
        if len(images) != len(labels):
            raise UserError(
                describe_file(pictures) + f": {len(images)} pictures, but {len(labels)} labels"
            )
        parts.append((images[..., None], labels.astype(np.int64), pictures, tested))
    return of_pictures(classes, parts)


def _folders(name: str) -> tuple[str, ...]:
    return "", "raw", name, f"{name}/raw"


def _names(stem: str, axes: int) -> tuple[str, str]:
    name = f"{stem}-{'images' if axes == 3 else 'labels'}-idx{axes}-ubyte"
    return f"{name}.gz", name


def read_idx(path: Path, axes: int, largest: int) -> NDArray[np.uint8]:
    """Return the unsigned bytes of an idx file with so many axes.

    Raises
    ------
    UserError
        It is something else, damaged, or claims more than ``largest`` bytes.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as opened:
            return _values(path, opened, axes, largest)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(
            describe_file(path) + ": damaged, it cannot be read" + private(f" ({error})")
        ) from error


def _values(
    path: Path, opened: IO[bytes] | gzip.GzipFile, axes: int, largest: int
) -> NDArray[np.uint8]:
    zero, kind, found = struct.unpack(">HBB", read_all(path, 4, opened))
    if (zero, kind, found) != (0, _BYTES, axes):
        raise UserError(describe_file(path) + f": no idx file of bytes with {axes} axes")
    shape = struct.unpack(f">{axes}I", read_all(path, 4 * axes, opened))
    size = int(np.prod(shape, dtype=object))
    if size > largest or 0 in shape:
        raise UserError(
            describe_file(path)
            + f": claims the shape {shape}; data.largest_mb allows {largest >> 20} MiB"
        )
    values = read_all(path, size, opened)
    if opened.read(1):
        raise UserError(describe_file(path) + f": has more than the {size} bytes that it claims")
    return np.frombuffer(values, dtype=np.uint8).reshape(shape)
