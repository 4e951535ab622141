"""Outputs of the frozen prefix, computed once and kept on disk under a content hash."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from client_app.faults import cause, no_room
from models.data import Inputs, Split
from models.durable import replacing
from models.errors import UserError, private

logger = logging.getLogger("flwr")

AT_ONCE = 16_000_000  # bytes of inputs that pass the prefix together on a CPU: more is no faster
IN_USE = 3600.0  # seconds for which a file that was used is not removed for another one
Values = NDArray[np.float32] | NDArray[np.float16]


@dataclass(frozen=True)
class Cache:
    """Where outputs of frozen layers are kept, how much of them, and in what.

    Parameters
    ----------
    folder : Path
        Of the files, ``<key>.npy``: without pickles, memory-mapped when read.
    most : int
        Bytes of all files together.
    dtype : str
        ``float16`` or ``float32``.
    """

    folder: Path
    most: int
    dtype: str

    def makes_room(self, size: int) -> bool:
        """Return whether a file of ``size`` bytes may be written, once the oldest ones are gone.

        What was used in the last hour stays: sites whose outputs do not fit together would else
        remove each other's in every round.
        """
        files = sorted(_files(self.folder), key=lambda each: each[1].st_mtime)
        over = sum(found.st_size for _, found in files) + size - self.most
        if over > 0:
            idle = [each for each in files if time.time() - each[1].st_mtime > IN_USE]
            if sum(found.st_size for _, found in idle) < over:
                return False
            for path, found in idle:
                if over <= 0:
                    break
                path.unlink(missing_ok=True)
                over -= found.st_size
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return shutil.disk_usage(self.folder).free > size


@dataclass(frozen=True)
class Features:
    """Outputs of a frozen prefix, memory-mapped: float16 or float32, shape ``(n, ...)``."""

    values: Values
    key: str

    def __len__(self) -> int:
        return len(self.values)

    @property
    def dtype(self) -> torch.dtype:
        """Of the values as they are kept."""
        return torch.float16 if self.values.dtype == np.float16 else torch.float32

    def batch(self, indices: NDArray[np.int64]) -> Tensor:
        """Return the features at ``indices``: float32, ``(b, ...)``."""
        return torch.from_numpy(np.ascontiguousarray(self.values[indices])).float()

    def digest(self) -> str:
        """Return the content hash of the inputs, the prefix that made them, and their dtype."""
        return self.key


@dataclass(frozen=True)
class Computed:
    """The same outputs where they cannot be kept: computed each time that they are asked for."""

    prefix: nn.Module
    inputs: Inputs
    dtype: str
    device: torch.device
    autocast: bool
    key: str

    def __len__(self) -> int:
        return len(self.inputs)

    @torch.no_grad()
    def batch(self, indices: NDArray[np.int64]) -> Tensor:
        """Return the outputs at ``indices``, on the device: float32, rounded as a file has them."""
        chunk = self.inputs.batch(indices).to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            outputs: Tensor = self.prefix(chunk).float()
        kept = outputs.to(getattr(torch, self.dtype)).float()
        if not torch.equal(kept.isfinite(), outputs.isfinite()):
            raise UserError(
                f"the frozen layers give values up to {float(outputs.abs().max()):g}, too large for "
                "float16: set train.feature_dtype=float32"
            )
        return kept

    def digest(self) -> str:
        """Return what `Features` of them would."""
        return self.key

    def pieces(self, batch_size: int) -> Iterator[Values]:
        """Yield all rows in order, as a file has them."""
        if self.device.type == "cpu":
            first = self.inputs.batch(np.arange(1))
            batch_size = min(batch_size, AT_ONCE // (first.numel() * first.element_size()) or 1)
        for start in range(0, len(self), batch_size):
            outputs = self.batch(np.arange(start, min(start + batch_size, len(self))))
            yield outputs.cpu().numpy().astype(self.dtype)


def cached(
    prefix: nn.Module,
    prefix_digest: str,
    split: Split,
    cache: Cache,
    *,
    batch_size: int,
    device: torch.device,
    autocast: bool,
) -> Split:
    """Return ``split`` with the outputs of ``prefix`` as inputs, computing what is not on disk.

    Parameters
    ----------
    prefix : nn.Module
        Frozen, deterministic, in eval mode, on ``device``.
    prefix_digest : str
        SHA-256 of the prefix; with that of the inputs it names the file.
    split : Split
        The examples.
    cache : Cache
        Where outputs are kept. Where there is no room, they are computed for each batch anew.
    batch_size : int
        The most examples that pass the prefix at once.

    Raises
    ------
    UserError
        Where the folder cannot be written or a file is damaged, and for outputs that are beyond the
        range of the cache's dtype.
    """
    precision = "bfloat16" if autocast else "float32"
    told = f"{prefix_digest}\n{split.inputs.digest()}\n{precision}\n{cache.dtype}"
    key = hashlib.sha256(told.encode()).hexdigest()
    path = cache.folder / f"{key}.npy"
    computed = Computed(prefix, split.inputs, cache.dtype, device, autocast, key)
    try:
        os.utime(path)  # when it was used last
    except FileNotFoundError:
        if not _written(path, computed, cache, batch_size):
            return Split(computed, split.labels)
    except OSError as error:
        raise _unusable(cache.folder, error) from None
    return Split(Features(_read(path, cache.dtype, len(split)), key), split.labels)


def _written(path: Path, computed: Computed, cache: Cache, batch_size: int) -> bool:
    """Write the file piece by piece; return False where there is no room for it."""
    shape = (len(computed), *computed.batch(np.arange(1)).shape[1:])
    dtype = np.dtype(cache.dtype)
    size = prod(shape) * dtype.itemsize
    try:
        room = cache.makes_room(size)
        if room:
            with replacing(path) as unfinished, unfinished.open("wb") as file:
                # By hand: numpy raises an error without the system's number where a disk is full.
                head = {"descr": dtype.str, "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, head)
                for piece in computed.pieces(batch_size):
                    file.write(piece.data)
    except OSError as error:
        if not no_room(error):
            raise _unusable(cache.folder, error) from None
        room = False
    if not room:
        logger.warning(
            "no room for %.1f MB in the feature cache %s, which may hold %.1f GB: the frozen layers "
            "run again for every batch, which takes longer",
            size / 1e6,
            cache.folder,
            cache.most / 1e9,
        )
    return room


def _read(path: Path, dtype: str, rows: int) -> Values:
    here = private(path, "a file in the cache folder")
    try:
        values: Values = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(
            here + " is damaged" + private(f" ({error})") + ": delete the file"
        ) from None
    if values.dtype != np.dtype(dtype) or len(values) != rows:
        raise UserError(here + f" does not hold {rows} rows of {dtype}: delete the file")
    return values


def _files(folder: Path) -> list[tuple[Path, os.stat_result]]:
    """Return the cache's files, and what others have begun or left there, each with its size."""
    found: list[tuple[Path, os.stat_result]] = []
    try:
        entries: list[Any] = list(os.scandir(folder))
    except FileNotFoundError:
        return found
    for entry in entries:
        try:
            found.append((Path(entry.path), entry.stat(follow_symlinks=False)))
        except FileNotFoundError:
            continue
    return found


def _unusable(folder: Path, error: OSError) -> UserError:
    why = private(error, cause(error))
    return UserError("the feature cache" + private(f" {folder}") + " cannot be written: " + why)
