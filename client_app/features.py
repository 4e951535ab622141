"""Outputs of the frozen prefix, computed once and kept on disk under a content hash."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from client_app.faults import cause, no_room
from models.data import Inputs, Split
from models.durable import replacing
from models.errors import UserError, private

logger = logging.getLogger("flwr")


@dataclass(frozen=True)
class Features:
    """Outputs of a frozen prefix, memory-mapped: float32, shape ``(n, ...)``."""

    values: NDArray[np.float32]
    key: str

    def __len__(self) -> int:
        return len(self.values)

    def batch(self, indices: NDArray[np.int64]) -> Tensor:
        """Return the features at ``indices``: float32, ``(b, ...)``."""
        return torch.from_numpy(np.ascontiguousarray(self.values[indices]))

    def digest(self) -> str:
        """Return the content hash of the inputs and the prefix that made them."""
        return self.key


def cached(
    prefix: nn.Module,
    prefix_digest: str,
    split: Split,
    folder: Path,
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
    folder : Path
        Where the files are: ``<folder>/<key>.npy``, without pickles, memory-mapped when read.

    Raises
    ------
    UserError
        Where the folder cannot be written. Where it has no room, the outputs stay in memory.
    """
    precision = "bfloat16" if autocast else "float32"
    told = f"{prefix_digest}\n{split.inputs.digest()}\n{precision}"
    key = hashlib.sha256(told.encode()).hexdigest()
    path = folder / f"{key}.npy"
    if not path.exists():
        outputs = _compute(prefix, split.inputs, batch_size, device, autocast)
        if not _written(path, outputs):
            return Split(Features(outputs, key), split.labels)
    here = private(path, "a file in the cache folder")
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(
            here + " is damaged" + private(f" ({error})") + ": delete the file"
        ) from None
    if values.dtype != np.float32 or len(values) != len(split):
        raise UserError(here + f" does not hold {len(split)} rows of float32: delete the file")
    return Split(Features(values, key), split.labels)


@torch.no_grad()
def _compute(
    prefix: nn.Module, inputs: Inputs, batch_size: int, device: torch.device, autocast: bool
) -> NDArray[np.float32]:
    parts = []
    for start in range(0, len(inputs), batch_size):
        chunk = inputs.batch(np.arange(start, min(start + batch_size, len(inputs)))).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            parts.append(prefix(chunk).float().cpu().numpy())
    return np.ascontiguousarray(np.concatenate(parts))


def _written(path: Path, values: NDArray[np.float32]) -> bool:
    """Write the file; return False where there is no room for it: it can be done without."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with replacing(path) as unfinished, unfinished.open("wb") as file:
            # Not write_array: where a disk is full it raises an error without the system's number.
            head = np.lib.format.header_data_from_array_1_0(values)
            np.lib.format.write_array_header_1_0(file, head)
            file.write(values.data)
    except OSError as error:
        if no_room(error):
            logger.warning(
                "no room for %.1f MB in the feature cache %s: the outputs of the frozen layers stay "
                "in memory, and are computed again when they are needed again",
                values.nbytes / 1e6,
                path.parent,
            )
            return False
        why = private(error, cause(error))
        raise UserError(
            "the feature cache" + private(f" {path.parent}") + " cannot be written: " + why
        ) from None
    return True
