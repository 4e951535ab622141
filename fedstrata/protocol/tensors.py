"""Named tensors as both sides describe them: shape, dtype and content hash."""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


def content_hash(tensors: Mapping[str, Tensor]) -> str:
    """Return a hex SHA-256 of names, dtypes, shapes and values; order and device do not matter.

    Values enter as little-endian bytes in C order, so equal tensors hash alike on every machine.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        head = [name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape)]
        digest.update(json.dumps(head).encode() + b"\n")
        digest.update(_little_endian(tensor))
    return digest.hexdigest()


def uninitialized(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Return a new CPU tensor with any values.

    Its memory is numpy's, which asks Linux for large pages. A tensor of 45 MB that torch allocates
    spends 30 ms on page faults when it is first written to, this one 5.
    """
    size = math.prod(shape) * dtype.itemsize
    if not size:
        return torch.empty(tuple(shape), dtype=dtype)
    return torch.from_numpy(np.empty(size, np.uint8)).view(dtype).reshape(tuple(shape))


def _little_endian(tensor: Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    raw = flat.view(torch.uint8).numpy().reshape(-1, flat.element_size())
    return raw.data if sys.byteorder == "little" else raw[:, ::-1].copy().data


@dataclass(frozen=True)
class TensorSpec:
    """Shape and dtype of a tensor; ``dtype`` is torch's name without ``torch.``: ``float32``."""

    shape: tuple[int, ...]
    dtype: str

    @classmethod
    def of(cls, tensor: Tensor) -> TensorSpec:
        """Return the spec of ``tensor``."""
        return cls(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))

    @property
    def floating(self) -> bool:
        """Whether the dtype is a floating-point one; only such tensors can be averaged."""
        dtype: torch.dtype = getattr(torch, self.dtype)
        return dtype.is_floating_point

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Number of bytes of the elements."""
        dtype: torch.dtype = getattr(torch, self.dtype)
        return self.numel * dtype.itemsize
