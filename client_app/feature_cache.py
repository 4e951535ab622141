"""Outputs of the frozen prefix, computed once and kept on disk under a content hash."""

from __future__ import annotations

import errno
import hashlib
import io
import logging
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from client_app.failures import cause, no_room
from fedstrata.support.durable import locked_folder, private_folder, replacing_private
from fedstrata.support.errors import UserError, private
from models.training.data import Inputs, Split

logger = logging.getLogger("flwr")

AT_ONCE = 16_000_000  # bytes of inputs that pass the prefix together on a CPU: more is no faster
IN_USE = 3600.0  # seconds for which a file that was used is not removed for another
_DIGEST = hashlib.sha256().digest_size  # bytes at the end of a file: the checksum of the others
_AT_ONCE_READ = 1 << 20  # bytes
SPARE = 0.05, 10**9  # share of the disk, at most bytes, left free: personal layers need room too
_OWN = re.compile(r"[0-9a-f]{64}\.npy|\.[0-9a-f]{64}\.npy\.[0-9a-f]+\.tmp")
Values = NDArray[np.float32] | NDArray[np.float16]


@dataclass(frozen=True)
class FeatureCache:
    """Where outputs of frozen layers are kept, how much of them, and in which dtype.

    Parameters
    ----------
    folder : Path
        Of the files, ``<key>.npy``: without pickles, memory-mapped when read, with a checksum
        after the values. Other files in it are left alone.
    most : int
        Bytes of all files together.
    dtype : str
        ``float16`` or ``float32``.
    """

    folder: Path
    most: int
    dtype: str

    def reserve(self, path: Path, size: int) -> bool:
        """Give the file ``path`` ``size`` bytes, and make room for it; return whether there is.

        The oldest files are removed first, but none that was used in the last hour: sites whose
        outputs do not fit together would remove each other's in every round. A lock lets one
        process do this at a time.

        Raises
        ------
        OSError
            Where the folder cannot be written.
        """
        private_folder(self.folder)
        with locked_folder(self.folder):
            if not self._makes_room(size):
                return False
            # The bytes are taken now, so that the next process sees them gone.
            with path.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, size)
        return True

    def _makes_room(self, size: int) -> bool:
        files = sorted(_files(self.folder), key=lambda each: each[1].st_mtime)
        disk = shutil.disk_usage(self.folder)
        spare = int(min(SPARE[0] * disk.total, SPARE[1]))
        over = max(
            sum(found.st_size for _, found in files) + size - self.most,
            size + spare - disk.free,
        )
        idle = [each for each in files if time.time() - each[1].st_mtime > IN_USE]
        if over > sum(found.st_size for _, found in idle):
            return False
        for path, found in idle:
            if over <= 0:
                break
            path.unlink(missing_ok=True)
            over -= found.st_size
        return True


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
        # Without numpy's class for mapped files, which looks at every result.
        return torch.from_numpy(np.asarray(self.values).take(indices, axis=0)).float()

    def digest(self) -> str:
        """Return the content hash of the inputs, the prefix that made them, and their dtype."""
        return self.key


@dataclass(frozen=True)
class Computed:
    """The same outputs where there is no room for them: computed for each batch.

    At most ``at_once`` examples pass the prefix together.
    """

    prefix: nn.Module
    inputs: Inputs
    dtype: str
    device: torch.device
    autocast: bool
    at_once: int
    key: str

    def __len__(self) -> int:
        return len(self.inputs)

    def batch(self, indices: NDArray[np.int64]) -> Tensor:
        """Return the outputs at ``indices``, on the device: float32, rounded as a file has them."""
        return torch.cat([chunk.float() for chunk in self.chunks(indices)])

    @torch.no_grad()
    def chunks(self, indices: NDArray[np.int64]) -> Iterator[Tensor]:
        """Yield the outputs at ``indices`` in order, on the device, as a file has them."""
        for start in range(0, len(indices), self.at_once):
            inputs = self.inputs.batch(indices[start : start + self.at_once]).to(self.device)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
                outputs: Tensor = self.prefix(inputs).float()
            yield self._rounded(outputs)

    def digest(self) -> str:
        """Return what `Features` of the same outputs would."""
        return self.key

    def _rounded(self, outputs: Tensor) -> Tensor:
        if self.dtype == "float32":
            return outputs
        rounded = outputs.half()
        if not torch.equal(rounded.isfinite(), outputs.isfinite()):
            largest = private(f" up to {float(outputs.abs().max()):g}")
            raise UserError(
                "the frozen layers give values" + largest + " that are too large for float16: set "
                "train.feature_dtype=float32"
            )
        return rounded


def cached(
    prefix: nn.Module,
    prefix_digest: str,
    split: Split,
    cache: FeatureCache,
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
        SHA-256 of the prefix. With that of the inputs, and how the outputs are computed, it names the
        file.
    split : Split
        The examples.
    cache : FeatureCache
        Where outputs are kept. Where there is no room, they are computed anew for each batch, equal
        but for rounding.
    batch_size : int
        The most examples that pass the prefix at once.

    Raises
    ------
    UserError
        Where the folder cannot be written, and for outputs that are beyond the range of the
        cache's dtype.
    """
    precision = "bfloat16" if autocast else "float32"
    # These change the last digits of the outputs. Without them in the name, a run's results would
    # depend on which run filled the cache.
    batch = min(batch_size, len(split))
    how = f"{device.type}\n{torch.get_num_threads()}\n{batch}\n{torch.__version__}"
    source = f"{prefix_digest}\n{split.inputs.digest()}\n{precision}\n{cache.dtype}\n{how}"
    key = hashlib.sha256(source.encode()).hexdigest()
    path = cache.folder / f"{key}.npy"
    found = _read(path, cache.dtype, len(split))
    if found is not None:
        with suppress(OSError):  # a cache that can only be read
            os.utime(path)  # when it was used last
        return Split(Features(found, key), split.labels)
    at_once = batch_size
    if device.type == "cpu":
        at_once = min(batch_size, AT_ONCE // split.inputs.batch(np.arange(1)).nbytes or 1)
    computed = Computed(prefix, split.inputs, cache.dtype, device, autocast, at_once, key)
    if _written(path, computed, cache):
        found = _read(path, cache.dtype, len(split))
    return Split(computed if found is None else Features(found, key), split.labels)


def _written(path: Path, computed: Computed, cache: FeatureCache) -> bool:
    """Write the file chunk by chunk; return False where there is no room for it."""
    shape = (len(computed), *computed.batch(np.arange(1)).shape[1:])
    dtype = np.dtype(cache.dtype)
    head = io.BytesIO()  # by hand: numpy's errors lack the system's number where a disk is full
    described = {"descr": dtype.str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(head, described)
    size = head.tell() + prod(shape) * dtype.itemsize + _DIGEST
    digest = hashlib.sha256()
    try:
        with replacing_private(path) as unfinished:
            if not cache.reserve(unfinished, size):
                raise OSError(errno.ENOSPC, "the cache is full")
            with unfinished.open("r+b") as file:
                for part in (head.getbuffer(), *_bytes_of(computed)):
                    digest.update(part)
                    file.write(part)
                file.write(digest.digest())
    except OSError as error:
        if not no_room(error):
            raise _unusable(cache.folder, error) from None
        logger.warning(
            "no room for %.1f MB in the feature cache %s, which may have %.1f GB: the frozen layers "
            "run again for every batch, which takes longer",
            size / 1e6,
            cache.folder,
            cache.most / 1e9,
        )
        return False
    return True


def _bytes_of(computed: Computed) -> Iterator[memoryview]:
    for chunk in computed.chunks(np.arange(len(computed))):
        yield chunk.cpu().contiguous().numpy().data


_whole: set[tuple[str, int, int]] = (
    set()
)  # files that this process has read through, and found whole


def _is_whole(path: Path) -> bool:
    """Return whether the file ends in the checksum of what is before; read it once a process.

    Raises
    ------
    OSError
        Where it cannot be read.
    """
    with path.open("rb") as file:
        found = os.fstat(file.fileno())
        key = str(path), found.st_ino, found.st_size
        if key not in _whole:
            digest, left = hashlib.sha256(), found.st_size - _DIGEST
            while left > 0 and (part := file.read(min(left, _AT_ONCE_READ))):
                digest.update(part)
                left -= len(part)
            if left or file.read() != digest.digest():
                return False
            _whole.add(key)
    return True


def _read(path: Path, dtype: str, rows: int) -> Values | None:
    """Return the file's values, None where there is no file, or one that is damaged.

    A damaged file is said in the log, and computed anew.
    """
    try:
        if not _is_whole(path):
            raise ValueError("it is not what was written")
        values: Values = np.load(path, mmap_mode="r", allow_pickle=False)
        if values.dtype != np.dtype(dtype) or len(values) != rows:
            raise ValueError(f"it does not have {rows} rows of {dtype}")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        logger.error("the cached features %s are damaged and computed again: %s", path, error)
        return None
    return values


def _files(folder: Path) -> list[tuple[Path, os.stat_result]]:
    """Return the cache's files, and unfinished ones of any process, each with its size."""
    found: list[tuple[Path, os.stat_result]] = []
    for entry in list(os.scandir(folder)):
        with suppress(FileNotFoundError):
            if _OWN.fullmatch(entry.name):
                found.append((Path(entry.path), entry.stat(follow_symlinks=False)))
    return found


def _unusable(folder: Path, error: OSError) -> UserError:
    why = private(error, cause(error))
    return UserError("the feature cache" + private(f" {folder}") + " cannot be written: " + why)
