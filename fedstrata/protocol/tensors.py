"""Named tensors: their content hash, and files of them that survive a crash."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from fedstrata.support.durable import replacing
from fedstrata.support.errors import UserError

_OS_ERROR = re.compile(r"\(os error (\d+)\)")  # how safetensors tells the system's own errors


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


def uninitialized(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Return a new CPU tensor with any values.

    Its memory is numpy's, which asks Linux for large pages: of 45 MB, a tensor of torch's own spends
    30 ms on page faults when it is first written to, this one 5.
    """
    size = math.prod(shape) * dtype.itemsize
    if not size:
        return torch.empty(tuple(shape), dtype=dtype)
    return torch.from_numpy(np.empty(size, np.uint8)).view(dtype).reshape(tuple(shape))


def save(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write ``tensors`` to the safetensors file ``path``: after a crash the old or the new file.

    Written beside ``path``, synced to disk, then renamed over it. Missing folders are made. Equal
    tensors and metadata give equal bytes.

    Raises
    ------
    ValueError
        For metadata of several entries, which safetensors would write in any order.
    OSError
        Where that cannot be done, with its number: no room, no permission.
    """
    if len(metadata) > 1:
        raise ValueError(f"{path}: metadata of several entries: {', '.join(sorted(metadata))}")
    with replacing(path) as unfinished:
        try:
            safetensors.torch.save_file(_separate(tensors), unfinished, dict(metadata))
        except safetensors.SafetensorError as error:
            number = _OS_ERROR.search(str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error


def load(
    path: Path, wanted: Callable[[str], bool] = lambda name: True
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors, on the CPU, and the metadata of a file that `save` wrote.

    Parameters
    ----------
    path : Path
        The file.
    wanted : callable
        Says of a name whether its tensor is read.

    Raises
    ------
    UserError
        If the file is missing, cut short or no safetensors file.
    """
    with _opened(path) as opened:
        tensors = {n: opened.get_tensor(n) for n in opened.keys() if wanted(n)}  # noqa: SIM118
        return tensors, dict(opened.metadata() or {})


def told(path: Path) -> dict[str, str]:
    """Return the metadata of a file that `save` wrote; UserError where it is none."""
    with _opened(path) as opened:
        return dict(opened.metadata() or {})


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a safetensors file; turn what is wrong with it into a UserError."""
    try:
        with safetensors.safe_open(path, framework="pt") as opened:
            yield opened
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist") from error
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path} is damaged or no safetensors file: {error}") from error


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return CPU tensors that share no memory, as the file format wants: tied ones are copied."""
    first: dict[int, str] = {}
    separate = {}
    for name, tensor in tensors.items():
        own = tensor.detach().cpu().contiguous()
        shared = first.setdefault(own.untyped_storage().data_ptr(), name) != name
        separate[name] = own.clone() if shared else own
    return separate


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
