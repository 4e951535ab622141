"""Checksums inside files: a bit that the disk lost is noticed when the file is read."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import msgspec

KEY = "checksum"  # of the entry in a file's own JSON
_LENGTH = 8  # bytes that say how long the header of a safetensors file is, little-endian
_UNSET = "0" * 128  # two SHA-256: of the header with the first one unset, and of the tensors
_HALF = len(_UNSET) // 2


class Damaged(ValueError):
    """A file that is not as it was written."""


def seal(path: Path) -> None:
    """Put checksums into the header of a safetensors file that has just been written.

    There must be an entry `KEY` in its metadata, with the value of `unset`. The file keeps its
    length, and gets its metadata in one order: safetensors writes them in any.
    """
    with path.open("r+b") as file:
        raw, header = _header(file)
        body = hashlib.file_digest(file, "sha256").hexdigest()
        metadata = header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        metadata[KEY] = _UNSET[_HALF:] + body
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        unsealed = text.ljust(len(raw))  # as safetensors does, with spaces
        if len(unsealed) != len(raw):
            raise ValueError(f"{path}: the header cannot be written again in {len(raw)} bytes")
        file.seek(_LENGTH)
        file.write(_sealed(unsealed, body, hashlib.sha256(unsealed).hexdigest()))


def unset() -> dict[str, str]:
    """Return the entry of the metadata that `seal` fills in."""
    return {KEY: _UNSET}


def check_header(path: Path) -> None:
    """Raise Damaged unless the header of a sealed file is as it was written; read nothing else."""
    with path.open("rb") as file:
        _checked_header(file)


def check(path: Path) -> None:
    """Raise Damaged unless a sealed file is as it was written."""
    with path.open("rb") as file:
        expected = _checked_header(file)
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise Damaged("the tensors are not those that were written")


def with_checksum(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return data for a JSON file with their checksum as one more entry."""
    return {**content, KEY: _of(content)}


def checked(content: object) -> dict[str, Any]:
    """Return what `with_checksum` was given, read back from JSON; raise Damaged for anything else."""
    if not isinstance(content, dict) or KEY not in content:
        raise Damaged("there is no checksum")
    rest = {key: value for key, value in content.items() if key != KEY}
    try:
        right = content[KEY] == _of(rest)
    except (ValueError, OverflowError, RecursionError):  # half a character, a number too long
        right = False
    if not right:
        raise Damaged("the content is not what was written")
    return rest


def _of(content: Mapping[str, Any]) -> str:
    # Sorted and with keys as text, so that it is the same of what is read back.
    try:
        encoded = msgspec.json.encode(content, order="sorted")
    except TypeError:  # keys that are no text
        plain = msgspec.to_builtins(content, str_keys=True)
        encoded = msgspec.json.encode(plain, order="sorted")
    return hashlib.sha256(encoded).hexdigest()


def _checked_header(file: IO[bytes]) -> str:
    """Check the header; return the checksum of the tensors. The file is read up to them then."""
    raw, header = _header(file)
    metadata = header.get("__metadata__")
    found = metadata.get(KEY) if isinstance(metadata, dict) else None
    if not isinstance(found, str) or len(found) != len(_UNSET):
        raise Damaged("there is no checksum")
    own, body = found[:_HALF], found[_HALF:]
    unsealed = raw.replace(found.encode(), (_UNSET[_HALF:] + body).encode(), 1)
    if hashlib.sha256(unsealed).hexdigest() != own:
        raise Damaged("the header is not as it was written")
    return body


def _sealed(unsealed: bytes, body: str, own: str) -> bytes:
    return unsealed.replace((_UNSET[_HALF:] + body).encode(), (own + body).encode(), 1)


def _header(file: IO[bytes]) -> tuple[bytes, dict[str, Any]]:
    """Return the header of a safetensors file, as bytes and read."""
    length = int.from_bytes(file.read(_LENGTH), "little")
    if length > os.fstat(file.fileno()).st_size:
        raise Damaged("it is cut short, or no safetensors file")
    raw = file.read(length)
    try:
        header = json.loads(raw)
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise Damaged("the header cannot be read")
    return raw, header
