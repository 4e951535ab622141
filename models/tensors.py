"""Named tensors as bytes: their content hash."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping

import torch
from torch import Tensor


def content_hash(tensors: Mapping[str, Tensor]) -> str:
    """Return a hex SHA-256 of names, dtypes, shapes and values; order and device do not matter.

    Values enter as little-endian bytes in C order, so equal tensors hash alike on every machine.
    """
    seen = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        head = [name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape)]
        seen.update(json.dumps(head).encode() + b"\n")
        seen.update(_little_endian(tensor))
    return seen.hexdigest()


def _little_endian(tensor: Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    raw = flat.view(torch.uint8).numpy().reshape(-1, flat.element_size())
    if sys.byteorder == "big":
        raw = raw[:, ::-1].copy()
    return raw.data
