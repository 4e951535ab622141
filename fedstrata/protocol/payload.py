"""The bytes of one group on the wire: safetensors, read strictly by a schema."""

from __future__ import annotations

import json
import warnings
from collections.abc import Collection, Mapping
from math import prod
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from fedstrata.protocol.forms import SAFETENSORS
from fedstrata.protocol.limits import one_line
from fedstrata.protocol.tensors import TensorSpec, uninitialized

_LENGTH_BYTES = 8  # a payload opens with the length of its JSON header, little-endian
_PADDING = 16  # the braces of the header, and spaces up to a multiple of eight bytes
_WIDEST = 8  # bytes of the widest number; tensors begin at multiples of their number's width
_LONGEST_WITH_TEXTS = 1 << 20  # bytes of a header whose texts are read
_SHOWN = 80  # characters of a foreign name that an error repeats


class PayloadError(ValueError):
    """Bytes that are not the tensors of the schema; the text says which tensor and why."""


def encode(tensors: Mapping[str, Tensor], texts: Mapping[str, str] | None = None) -> bytes:
    """Return ``tensors`` as one safetensors file; tensors that share memory are each written.

    ``texts`` go into its header, where `texts_of` finds them.
    """
    written: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name, tensor in tensors.items():
        owned = tensor.detach().to("cpu").contiguous()
        storage = owned.untyped_storage().data_ptr()
        written[name] = owned.clone() if storage in storages else owned
        storages.add(storage)
    return safetensors.torch.save(written, None if texts is None else dict(texts))


def texts_of(data: bytes, names: Collection[str]) -> dict[str, str]:
    """Return texts that somebody else wrote into a payload's header, each as one short line.

    Parameters
    ----------
    data : bytes
        A payload; it may be anything.
    names : collection of str
        Which texts are wanted; what else stands there is not read.

    Returns
    -------
    dict of str to str
        Those that are there and are texts: printable, and no longer than a reason may be.
    """
    length = int.from_bytes(data[:_LENGTH_BYTES], "little")
    if length > min(len(data), _LONGEST_WITH_TEXTS):
        return {}
    try:
        found = _parse(data[_LENGTH_BYTES : _LENGTH_BYTES + length]).get("__metadata__")
    except PayloadError:
        return {}
    texts = found if isinstance(found, dict) else {}
    return {n: one_line(texts[n]) for n in names if isinstance(texts.get(n), str) and texts[n]}


def decode(
    data: bytes | bytearray,
    schema: Mapping[str, TensorSpec],
    *,
    max_magnitude: float | None,
    borrow: bool = False,
) -> dict[str, Tensor]:
    """Return the tensors in ``data``, which must be exactly those of ``schema``.

    The header is compared with the schema before any tensor is made, and nothing is allocated
    because it says so. Memory: ``data`` and one copy of its tensors, or none.

    Parameters
    ----------
    data : bytes or bytearray
        What `encode` wrote, or anything else.
    schema : Mapping of str to TensorSpec
        The shape and dtype of every tensor expected; may be empty.
    max_magnitude : float or None
        The largest magnitude a value may have; None for any finite one.
    borrow : bool
        Return views of ``data`` instead of copies; nobody may write to them.

    Returns
    -------
    dict of str to Tensor
        CPU tensors in the order of the schema, writable and in their own memory unless borrowed.

    Raises
    ------
    PayloadError
        The bytes are truncated or no safetensors. Or a tensor is missing, extra, of another shape
        or dtype, misplaced, not finite or too large.
    TypeError
        The schema has a dtype that cannot travel.
    """
    sizes = {name: prod(spec.shape) * _dtype(name, spec).itemsize for name, spec in schema.items()}
    header_length, body_length = _header_length(data, schema), sum(sizes.values())
    found = len(data) - _LENGTH_BYTES - header_length
    if found != body_length:
        raise PayloadError(
            f"{found} bytes of tensors, the schema has {body_length}: truncated or foreign"
        )
    header = _parse(data[_LENGTH_BYTES : _LENGTH_BYTES + header_length])
    begins = _check_header(header, schema, sizes)
    body = _body(data, _LENGTH_BYTES + header_length, borrow=borrow)
    tensors = {}
    for name, spec in schema.items():
        raw = body[begins[name] : begins[name] + sizes[name]]
        tensors[name] = raw.view(_dtype(name, spec)).reshape(spec.shape)
    dtypes = {_dtype(name, spec) for name, spec in schema.items()}
    # In one pass where one dtype allows it: there are many small tensors.
    if len(dtypes) != 1 or _problem(body.view(dtypes.pop()), max_magnitude):
        check_values(tensors, max_magnitude)
    return tensors


def shapes_in(data: bytes, schema: Mapping[str, TensorSpec]) -> dict[str, tuple[int, ...]]:
    """Return names and shapes in the header of ``data``; nothing else is read, () for no shape.

    `decode` checks the rest. Memory: a header with every tensor of ``schema``.

    Raises
    ------
    PayloadError
        There is no header, or it is longer than ``schema`` needs.
    """
    length = _header_length(data, schema)
    header = _parse(data[_LENGTH_BYTES : _LENGTH_BYTES + length])
    return {name: _claimed_shape(entry) for name, entry in header.items()}


def _claimed_shape(entry: object) -> tuple[int, ...]:
    shape = entry.get("shape") if isinstance(entry, dict) else None
    return tuple(shape) if isinstance(shape, list) and _is_integers(shape) else ()


def check_values(tensors: Mapping[str, Tensor], max_magnitude: float | None) -> None:
    """Raise PayloadError for a value that is not finite, or above ``max_magnitude``; see `decode`."""
    for name, tensor in tensors.items():
        if problem := _problem(tensor, max_magnitude):
            raise PayloadError(f"{name!r} has {problem}")


def _body(data: bytes | bytearray, offset: int, *, borrow: bool) -> Tensor:
    """Return the bytes from ``offset`` as uint8: a view of ``data``, or a copy."""
    raw = np.frombuffer(data, np.uint8, offset=offset)
    if borrow and len(raw) and raw.ctypes.data % _WIDEST == 0:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch warns that it is read-only
            return torch.from_numpy(raw)
    body = uninitialized([len(raw)], torch.uint8)
    body.numpy()[:] = raw
    return body


def _dtype(name: str, spec: TensorSpec) -> torch.dtype:
    if spec.dtype not in SAFETENSORS:
        raise TypeError(f"{name}: {spec.dtype} cannot travel; there is {', '.join(SAFETENSORS)}")
    dtype: torch.dtype = getattr(torch, spec.dtype)
    return dtype


def _header_length(data: bytes | bytearray, schema: Mapping[str, TensorSpec]) -> int:
    """Return the length of the header, which may be no longer than the schema needs."""
    if len(data) < _LENGTH_BYTES:
        raise PayloadError(f"{len(data)} bytes are too few for a safetensors file")
    length = int.from_bytes(data[:_LENGTH_BYTES], "little")
    most = _longest_header(schema)
    if length > most:
        raise PayloadError(f"a header of {length} bytes, where at most {most} are needed")
    return length


def _longest_header(schema: Mapping[str, TensorSpec]) -> int:
    """Return the most bytes of a header: every entry, with the longest numbers."""
    entry = len('"":{"dtype":"BF16","shape":[],"data_offsets":[,]},')
    number = len("18446744073709551615,")
    return _PADDING + sum(
        entry + len(json.dumps(name)) + number * (len(spec.shape) + 2)
        for name, spec in schema.items()
    )


def _parse(header: bytes | bytearray) -> dict[str, Any]:
    try:
        parsed = json.loads(str(header, "utf-8"), object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as error:
        raise PayloadError(f"the header is not the JSON of a safetensors file: {error}") from None
    if not isinstance(parsed, dict):
        raise PayloadError("the header is not a JSON object")
    return parsed


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) != len(pairs):
        raise ValueError("a name stands there twice")
    return entries


def _check_header(
    header: Mapping[str, Any], schema: Mapping[str, TensorSpec], sizes: Mapping[str, int]
) -> dict[str, int]:
    """Return where each tensor begins; the tensors must fill the body without gap or overlap."""
    if extra := sorted(header.keys() - schema.keys()):
        more = f" (and {len(extra) - 1} more)" if len(extra) > 1 else ""
        raise PayloadError(f"{_shown(extra[0])} is not in the schema{more}")
    begins: dict[str, int] = {}
    for name, spec in schema.items():
        if name not in header:
            raise PayloadError(f"{name!r} is missing")
        begins[name] = _begin(name, header[name], spec, sizes[name])
    # Bytes that no tensor covers could carry anything; bytes that two cover, the same number twice.
    end = 0
    for name in sorted(schema, key=lambda name: (begins[name], sizes[name])):
        if begins[name] != end:
            raise PayloadError(f"{name!r} begins at byte {begins[name]}, not at {end}")
        end += sizes[name]
    return begins


def _begin(name: str, entry: object, spec: TensorSpec, size: int) -> int:
    """Return the first byte of one tensor, once its entry in the header is checked."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise PayloadError(f"{name!r} needs a dtype, a shape and offsets in the header")
    if entry["dtype"] != SAFETENSORS[spec.dtype]:
        found = _shown(entry["dtype"])
        raise PayloadError(f"{name!r} has the dtype {found}, not {SAFETENSORS[spec.dtype]!r}")
    if not _is_integers(entry["shape"]) or tuple(entry["shape"]) != tuple(spec.shape):
        found = entry["shape"] if _is_integers(entry["shape"]) else "of something else"
        raise PayloadError(f"{name!r} has the shape {found}, not {list(spec.shape)}")
    offsets = entry["data_offsets"]
    if not _is_integers(offsets) or len(offsets) != 2 or offsets[1] - offsets[0] != size:
        raise PayloadError(f"{name!r} has offsets that are not two numbers {size} bytes apart")
    if offsets[0] % _dtype(name, spec).itemsize:
        raise PayloadError(f"{name!r} is not aligned: it begins at byte {offsets[0]}")
    return int(offsets[0])


def _shown(foreign: object) -> str:
    """Return a foreign value, safe to print; nested values are not printed at all."""
    return ascii(foreign[:_SHOWN]) if isinstance(foreign, str) else type(foreign).__name__


def _is_integers(value: object) -> bool:
    return isinstance(value, list) and all(type(item) is int for item in value)


def _problem(tensor: Tensor, max_magnitude: float | None) -> str:
    """Return what is wrong with the values of ``tensor``, or ""."""
    if tensor.numel() == 0:  # aminmax fails for it
        return ""
    low, high = (float(bound) for bound in tensor.aminmax())  # a NaN anywhere makes both NaN
    if not (np.isfinite(low) and np.isfinite(high)):
        return "values that are not finite"
    if max_magnitude is not None and max(-low, high) > max_magnitude:
        return f"a magnitude of {max(-low, high):g}, above {max_magnitude:g}"
    return ""
