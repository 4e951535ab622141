"""Safetensors files that survive a crash, and whose damage is noticed: each has its checksums."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from fedstrata.support import checksums
from fedstrata.support.durable import replacing_private
from fedstrata.support.errors import UserError

_OS_ERROR = re.compile(r"\(os error (\d+)\)")  # how safetensors writes the system's own errors


def save(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write ``tensors`` to the safetensors file ``path``: after a crash the old or the new file.

    The file is written beside ``path``, gets its checksums, is synced to disk, then renamed over
    it. Missing folders are made; nobody but the user may read them or the file. Equal tensors and
    metadata give equal bytes.

    Raises
    ------
    ValueError
        The metadata has an entry called as that of the checksums.
    OSError
        The file cannot be written, with the system's number: no room, no permission.
    """
    if checksums.KEY in metadata:
        raise ValueError(f"{path}: metadata may not have an entry {checksums.KEY!r}")
    with replacing_private(path) as unfinished:
        try:
            safetensors.torch.save_file(
                _separate(tensors), unfinished, {**metadata, **checksums.unset()}
            )
        except safetensors.SafetensorError as error:
            number = _OS_ERROR.search(str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
        checksums.seal(unfinished)


def load(
    path: Path, wanted: Callable[[str], bool] = lambda name: True
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors, on the CPU, and the metadata of a file that `save` wrote.

    Parameters
    ----------
    path : Path
        The file.
    wanted : callable
        Whether to read the tensor of this name.

    Raises
    ------
    UserError
        The file is missing, or not as it was written: cut short, or with another bit anywhere.
    """
    with _opened(path, checksums.check) as opened:
        tensors = {n: opened.get_tensor(n) for n in opened.keys() if wanted(n)}  # noqa: SIM118
        return tensors, _metadata(opened)


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a file that `save` wrote; UserError if they are damaged.

    The tensors are not read.
    """
    with _opened(path, checksums.check_header) as opened:
        return _metadata(opened)


def _metadata(opened: Any) -> dict[str, str]:
    return {key: text for key, text in opened.metadata().items() if key != checksums.KEY}


@contextmanager
def _opened(path: Path, check: Callable[[Path], None]) -> Iterator[Any]:
    """Open a file once ``check`` finds it whole; raise UserError if it is missing or damaged."""
    try:
        check(path)
        with safetensors.safe_open(path, framework="pt") as opened:
            yield opened
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist") from error
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path} is damaged, or fedstrata did not write it: {error}") from error


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return CPU tensors that share no memory, as the format needs; tied ones are copied."""
    first: dict[int, str] = {}
    separate = {}
    for name, tensor in tensors.items():
        own = tensor.detach().cpu().contiguous()
        shared = first.setdefault(own.untyped_storage().data_ptr(), name) != name
        separate[name] = own.clone() if shared else own
    return separate
