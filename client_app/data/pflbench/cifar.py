"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009) in the binary version; the Python one is a pickle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client_app.data.paths import describe_file, describe_root
from client_app.data.pflbench.published import (
    Published,
    folder_with,
    missing,
    of_pictures,
    one_of,
    read_all,
)
from fedstrata.support.errors import UserError

OBJECTS = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
SIDE, COLORS = 32, 3
_PIXELS = SIDE * SIDE * COLORS
_FINE = tuple(f"{number:02d}" for number in range(100))
_BATCHES = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
_PICKLES = ("", "cifar-10-batches-py", "cifar-100-python")


def read_cifar10(root: Path, largest: int) -> Published:
    """Return CIFAR-10; arguments and errors as of `read_cifar100`."""
    files = (*((name, False) for name in _BATCHES), ("test_batch.bin", True))
    return _read(root, "cifar-10-batches-bin", "cifar-10-binary", files, OBJECTS, 1, largest)


def read_cifar100(root: Path, largest: int) -> Published:
    """Return CIFAR-100 with its 100 classes, in the order of ``fine_label_names.txt``.

    Parameters
    ----------
    root : Path
        The folder with the ``.bin`` files, or the one above it.
    largest : int
        The most bytes of one file.

    Raises
    ------
    UserError
        A file is missing, damaged or too large, or the files are pickles.
    """
    files = (("train.bin", False), ("test.bin", True))
    return _read(root, "cifar-100-binary", "cifar-100-binary", files, _FINE, 2, largest)


def _read(
    root: Path,
    folder_name: str,
    archive: str,
    files: tuple[tuple[str, bool], ...],
    classes: tuple[str, ...],
    labels: int,
    largest: int,
) -> Published:
    folder = folder_with(root, ("", folder_name), [files[0][0]])
    if folder is None:
        if folder_with(root, _PICKLES, ("data_batch_1", "meta", "batches.meta")):
            raise UserError(
                describe_root(root)
                + ": has the Python version, whose files are pickles and could run code; unpack "
                f"{archive}.tar.gz of https://www.cs.toronto.edu/~kriz/cifar.html there instead"
            )
        raise missing(root, [files[0][0]])
    parts = []
    for name, tested in files:
        path = one_of(root, folder, [name])
        images, own = _records(path, labels, largest)
        parts.append((images, own, path, tested))
    return of_pictures(classes, parts)


def _records(path: Path, labels: int, largest: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return pictures and the last of each record's labels: the finest one."""
    record = labels + _PIXELS
    size = path.stat().st_size
    if not size or size % record or size > largest:
        raise UserError(
            describe_file(path)
            + f": {size} bytes are no whole number of records of {record}, or more than "
            f"data.largest_mb allows ({largest >> 20} MiB)"
        )
    try:
        with path.open("rb") as opened:
            data = read_all(path, size, opened)
    except OSError as error:
        raise UserError(describe_file(path) + f": cannot be read ({error.strerror})") from error
    values = np.frombuffer(data, dtype=np.uint8).reshape(-1, record)
    images = values[:, labels:].reshape(-1, COLORS, SIDE, SIDE).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), values[:, labels - 1].astype(np.int64)
