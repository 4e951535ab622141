"""Start weights that come with the package: small, each a JSON file with its digest and its source.

JSON, because Flower's app bundles carry no other files than code and text.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from pathlib import Path

import msgspec
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from fedstrata.support.durable import replacing_private
from fedstrata.support.errors import UserError
from fedstrata.support.registry import find
from models import weights

FOLDER = Path(__file__).resolve().parent


class Packaged(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the file of packaged weights holds.

    Parameters
    ----------
    about : str
        What the weights learned, and from what.
    command : str
        What made them.
    license : str
        Of the weights.
    content_hash : str
        Of the tensors as float32.
    tensors : str
        Base64 of a safetensors file; floats in float16.
    """

    about: str
    command: str
    license: str
    content_hash: str
    tensors: str


def names() -> dict[str, Path]:
    """Return the file of each set of packaged weights, by name."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.json"))}


def read_packaged(name: str) -> dict[str, Tensor]:
    """Return the tensors of packaged weights, floats in float32.

    Raises
    ------
    UserError
        For a name that there is not, and for a file that is damaged.
    """
    return read_file(find("weights.name", name, names()))


def licence_of_packaged(name: str) -> str:
    """Return the licence of packaged weights, as their file has it; UserError as `read_packaged`."""
    path = find("weights.name", name, names())
    return _read(path).license


def read_file(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file of packaged weights; raise UserError for a damaged one."""
    packaged, damaged = _read(path), _damaged(path)
    try:
        stored = safetensors.torch.load(base64.b64decode(packaged.tensors, validate=True))
    except (binascii.Error, safetensors.SafetensorError) as error:
        raise UserError(f"{damaged} ({error})") from None
    tensors = {name: _as_float32(tensor) for name, tensor in stored.items()}
    if weights.content_hash(tensors) != packaged.content_hash:
        raise UserError(f"{damaged} (their hash is another)")
    return tensors


def _read(path: Path) -> Packaged:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Packaged)
    except (OSError, msgspec.DecodeError) as error:
        raise UserError(f"{_damaged(path)} ({error})") from None


def _damaged(path: Path) -> str:
    return f"the packaged weights {path.name} are damaged: install the package again"


def write_packaged(
    path: Path, tensors: Mapping[str, Tensor], *, about: str, command: str, license: str
) -> None:
    """Write ``tensors`` as packaged weights, their floats rounded to float16."""
    stored = {
        name: (tensor.half() if tensor.is_floating_point() else tensor).contiguous()
        for name, tensor in tensors.items()
    }
    made = weights.content_hash({name: _as_float32(each) for name, each in stored.items()})
    packed = base64.b64encode(safetensors.torch.save(stored)).decode()
    content = Packaged(about, command, license, made, packed)
    with replacing_private(path) as unfinished:
        unfinished.write_bytes(msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n")
    path.chmod(0o644)


def _as_float32(tensor: Tensor) -> Tensor:
    return tensor.to(torch.float32) if tensor.is_floating_point() else tensor
