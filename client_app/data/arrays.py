"""Reads arrays from an untrusted ``.npz`` file without running code or wasting memory."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Collection, Mapping
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from client_app.data.paths import describe_file
from fedstrata.support.errors import PrivateText, UserError, nearest, private

PLAIN_KINDS = "biufU"  # booleans, integers, floats, text: never objects, never records
Stamp = tuple[Path, int, int]  # path, time of change, size: a key for what was read
DEFLATE_RATIO = 1100  # deflate unpacks a byte into 1,032 at most; a larger claim is forged


def stamp(path: Path) -> Stamp:
    """Return resolved path, time of change (ns) and size, which stay equal until the file changes."""
    try:
        seen = path.stat()
        return path.resolve(), seen.st_mtime_ns, seen.st_size
    except OSError as error:
        raise UserError(describe_file(path) + f": cannot be read ({error.strerror})") from error


def array_names(path: Path) -> tuple[str, ...]:
    """Return the names of the arrays in ``path``, or raise a `UserError` if it is no npz file."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.namelist()
    except Exception as error:
        raise UserError(
            describe_file(path) + ": not a readable npz file" + private(f" ({error})")
        ) from error
    return tuple(member.removesuffix(".npy") for member in members if member.endswith(".npy"))


def read_npz(
    path: Path, needed: Collection[str], optional: Collection[str] = (), *, largest: int
) -> Mapping[str, NDArray[Any]]:
    """Return the named arrays of an npz file.

    Parameters
    ----------
    path : Path
        The file, not trusted. Nothing is unpickled. Each claimed size is compared with the
        compressed size and ``largest`` before memory is allocated.
    needed, optional : collection of str
        Arrays that must exist, and arrays that are read if they exist.
    largest : int
        The most bytes for all arrays together.

    Raises
    ------
    UserError
        The file cannot be read, or an array is missing, damaged, of objects, or too large.
    """
    names = array_names(path)
    for name in needed:
        if name not in names:
            there = private(f"; there is {nearest(name, names)}")
            raise UserError(describe_file(path) + f": no array {name!r}" + there)
    wanted = [*needed, *(name for name in optional if name in names)]
    arrays: dict[str, NDArray[Any]] = {}
    # zipfile, zlib and numpy raise some fifteen kinds of exception for damaged files, and warn of
    # odd headers. All of them mean that this file is damaged.
    try:
        with zipfile.ZipFile(path) as archive, warnings.catch_warnings():
            warnings.simplefilter("error")
            for name in wanted:
                arrays[name] = _read_member(path, archive, name, largest)
                largest -= arrays[name].nbytes
    except UserError:
        raise
    except Exception as error:
        reason = private(f" ({str(error) or type(error).__name__})")
        raise UserError(
            describe_file(path) + f": damaged, array {name!r} cannot be read" + reason
        ) from error
    return arrays


def _read_member(path: Path, archive: zipfile.ZipFile, name: str, largest: int) -> NDArray[Any]:
    member = archive.getinfo(f"{name}.npy")
    if member.file_size > DEFLATE_RATIO * member.compress_size + 4096:
        raise UserError(
            describe_file(path)
            + f": damaged, array {name!r} claims more than its bytes can unpack to"
        )
    with archive.open(member) as opened:
        shape, dtype = _read_header(opened)
        stored = member.file_size - opened.tell()
    if dtype.hasobject or dtype.kind not in PLAIN_KINDS:
        raise UserError(
            describe_file(path)
            + f": array {name!r} holds "
            + private(dtype, "a type")
            + ", which is not "
            "read because it could run code; save it as plain numbers"
        )
    claimed = prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or claimed != stored:
        raise UserError(describe_file(path) + f": damaged, array {name!r} claims the shape {shape}")
    if claimed > largest:
        raise UserError(
            describe_file(path)
            + f": array {name!r} would take {claimed / 2**20:,.0f} MiB, which is more "
            f"than the {largest / 2**20:,.0f} MiB left for this file"
        )
    with archive.open(member) as opened:
        array: NDArray[Any] = np.lib.format.read_array(opened, allow_pickle=False)
    return array


def _read_header(opened: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return shape and dtype from an npy header, which are not trusted yet."""
    version = np.lib.format.read_magic(opened)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(opened)
    elif version == (2, 0):
        shape, _, dtype = np.lib.format.read_array_header_2_0(opened)
    else:
        raise ValueError(f"npy format {version} is not read here")
    return shape, dtype


def whole_numbers(
    values: NDArray[Any], lowest: int, highest: int, source: str | PrivateText
) -> NDArray[np.int64]:
    """Return ``values`` as int64 of shape ``(n,)``.

    Parameters
    ----------
    values : NDArray
        Any numbers, shape ``(n,)`` or ``(n, 1)``; floats must be whole.
    lowest, highest : int
        The range, both ends included.
    source : str or PrivateText
        File and array, for the error text.

    Raises
    ------
    UserError
        The shape is another, or a number is not whole or out of range.
    """
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1 or values.dtype.kind not in "biuf":
        raise UserError(
            source + f": one whole number per row is needed, not {values.shape} of {values.dtype}"
        )
    wrong = ~((values >= lowest) & (values <= highest))
    if values.dtype.kind == "f":
        wrong |= values != np.floor(values)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise UserError(
            source
            + f": row {row + 1} is "
            + private(f"{values[row]}, ")
            + f"not a whole number from {lowest} to {highest}"
        )
    return values.astype(np.int64)
