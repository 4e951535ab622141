"""The layers that leave a site: one group's payload, checked and written anew."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np
import safetensors
from safetensors import SafetensorError

from fedstrata.protocol import limits
from fedstrata.protocol.codings import Coding, expected_arrays
from fedstrata.protocol.forms import SAFETENSORS, Form
from fedstrata.protocol.limits import Refused
from site_guard.reports import some

Written = tuple[str, tuple[int, ...]]  # of an array: dtype as safetensors writes it, and shape
_HEADER = 8  # bytes of a safetensors file that say how long its header is
# The order in which safetensors writes arrays: by dtype, the widest first, then by name.
_ORDER = ("I64", "F64", "F32", "I32", "BF16", "F16", "I16", "I8", "U8")
_FLOATS: Mapping[str, str] = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}


def forms_of(group: str, payload: bytes) -> dict[str, Written]:
    """Return dtype and shape of each tensor of a payload; raise Refused if it cannot be read."""
    try:
        tensors = safetensors.deserialize(payload)  # type: ignore[no-untyped-call]
    except (SafetensorError, ValueError, OverflowError) as error:
        raise Refused(
            f"the group {limits.printable(group)[:80]!r} is no safetensors file: {error}"
        ) from None
    return {name: (str(entry["dtype"]), tuple(entry["shape"])) for name, entry in tensors}


def checked(group: str, payload: bytes, schema: Mapping[str, Form], coding: Coding) -> bytes:
    """Return the group's tensors as a new payload: the names, shapes and dtypes asked for.

    Dtype, shape and the plan's coding decide which arrays a coded tensor has, but for a rank that the
    app chooses within its bound. Or one empty array says that it is unchanged.

    Raises
    ------
    Refused
        There is another array, one is missing, or a number in one is not finite: a NaN has 22 bits
        and more that can be anything.
    """
    found = forms_of(group, payload)
    shapes = {name: shape for name, (_, shape) in found.items()}
    arrays: dict[str, Written] = {
        name: (SAFETENSORS[dtype], shape)
        for name, (dtype, shape) in expected_arrays(schema, coding, shapes).items()
    }
    if extra := sorted(set(found) - set(arrays)):
        raise Refused(f"the app sends {some(extra)} in the group {group!r}, which are not of it")
    if missing := sorted(set(arrays) - set(found)):
        raise Refused(f"the app does not send {some(missing)} of the group {group!r}")
    for name, form in found.items():
        if form != arrays[name]:
            raise Refused(f"the app sends {name!r} as {form}, and it is {arrays[name]}")
    return _rewritten(group, payload)


def _rewritten(group: str, payload: bytes) -> bytes:
    """Return a payload with the same tensors and nothing else: no metadata, no spare bytes.

    The tensors stand in the one order in which safetensors writes them: n of them in any order
    would be one of n! messages.
    """
    length = int.from_bytes(payload[:_HEADER], "little")
    header = json.loads(payload[_HEADER : _HEADER + length])
    header.pop("__metadata__", None)
    body = memoryview(payload)[_HEADER + length :]
    names = sorted(header, key=lambda name: (_ORDER.index(header[name]["dtype"]), name))
    plain, parts, end = {}, [], 0
    for name in names:
        entry = header[name]
        begin, stop = entry["data_offsets"]
        part = body[begin:stop]
        if not _is_finite(entry, part):
            raise Refused(f"the app sends {name!r} of the group {group!r}, which is not finite")
        parts.append(part)
        plain[name] = {
            "dtype": entry["dtype"],
            "shape": entry["shape"],
            "data_offsets": [end, end + len(part)],
        }
        end += len(part)
    text = json.dumps(plain, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _HEADER)
    return b"".join([len(text).to_bytes(_HEADER, "little"), text, *parts])


def _is_finite(entry: Mapping[str, Any], data: memoryview) -> bool:
    """Return whether all numbers of an array are finite; integers are."""
    if not prod(entry["shape"]):
        return True
    if entry["dtype"] == "BF16":  # not one of numpy's: all bits of its exponent are set, or not
        return not ((np.frombuffer(data, "<u2") & 0x7F80) == 0x7F80).any()
    if entry["dtype"] not in _FLOATS:
        return True
    return bool(np.isfinite(np.frombuffer(data, _FLOATS[entry["dtype"]])).all())
