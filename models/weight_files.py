"""Reads files of pre-trained weights from anywhere, and never runs code from them."""

from __future__ import annotations

import math
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from fedstrata.support.errors import UserError

# A zip archive may claim to unpack to this many times its size; weights hardly compress.
MOST_EXPANSION = 50


def read_file(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a weights file by name, on the CPU.

    ``.pth`` and ``.pt`` may have the tensors under ``state_dict`` or ``model``, next to other plain
    values, and under names that start with ``module.``. ``.safetensors`` and ``.npz`` have them by
    name. float16 and bfloat16 become float32; all other dtypes stay.

    Raises
    ------
    UserError
        If the file is missing, of another kind, damaged, has anything but plain tensors, or claims
        more data than it has.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist or is no file")
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise UserError(f"{path} is no weights file: its name must end in {', '.join(READERS)}")
    try:
        tensors = _without_prefix(reader(path))
        return {name: _plain(name, tensor) for name, tensor in tensors.items()}
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} is damaged or holds more than tensors, which could run code: "
            "save model.state_dict() alone, or use .safetensors"
        ) from error
    except Exception as error:  # damaged files fail in many ways, all of them the file's fault
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{path} cannot be read: {reason}") from error


def _read_torch(path: Path) -> dict[str, Tensor]:
    size = path.stat().st_size
    # Files of before torch 1.6 are no zip archives; weights_only reads them as safely.
    if zipfile.is_zipfile(path):
        _check_expansion(path, most=1)  # torch.save does not compress
    content = torch.load(path, map_location="cpu", weights_only=True)
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping):
        raise ValueError(f"it holds a {type(content).__name__}, not tensors by name")
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    # Tensors may be views of one storage, one value seen a billion times. Tied weights share theirs
    # too, so some excess is normal.
    if sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()) > 4 * size:
        raise ValueError("its tensors claim more data than the file has")
    return tensors


def _read_npz(path: Path) -> dict[str, Tensor]:
    _check_expansion(path, most=MOST_EXPANSION)
    with zipfile.ZipFile(path) as archive:
        return {
            entry.filename.removesuffix(".npy"): _read_npy(archive.open(entry), entry.file_size)
            for entry in archive.infolist()
        }


def _read_npy(file: IO[bytes], size: int) -> Tensor:
    """Return the array of a .npy file of ``size`` bytes, which must be what its header claims."""
    # numpy.load would allocate whatever the header says before it reads any data.
    with file:
        old = np.lib.format.read_magic(file) == (1, 0)
        header = np.lib.format.read_array_header_1_0 if old else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = header(file)
        if dtype.hasobject:
            raise ValueError("it holds Python objects, which could run code")
        if math.prod(shape) * dtype.itemsize != size - file.tell():
            raise ValueError(f"an array claims {shape} of {dtype}, the data is of another size")
        flat = np.frombuffer(file.read(), dtype)
    array = flat.reshape(shape, order="F" if fortran else "C")
    return torch.from_numpy(np.array(array, dtype=dtype.newbyteorder("="), order="C"))


READERS: Mapping[str, Callable[[Path], dict[str, Tensor]]] = {
    ".pth": _read_torch,
    ".pt": _read_torch,
    ".safetensors": safetensors.torch.load_file,
    ".npz": _read_npz,
}


def _check_expansion(path: Path, *, most: int) -> None:
    with zipfile.ZipFile(path) as archive:
        claimed = sum(entry.file_size for entry in archive.infolist())
    if claimed > most * path.stat().st_size:
        raise ValueError(f"it claims to unpack to {claimed} bytes, implausible for its size")


def _plain(name: str, tensor: Tensor) -> Tensor:
    """Return ``tensor`` without gradient, and not in half precision; it must be dense."""
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        raise ValueError(f"{name} is no plain dense tensor")
    half = tensor.dtype in (torch.float16, torch.bfloat16)
    return tensor.detach().float() if half else tensor.detach()


def _without_prefix(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Remove the ``module.`` that `nn.DataParallel` puts before every name."""
    if not all(name.startswith("module.") for name in tensors):
        return tensors
    return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
