"""A tensor's form: its dtype and shape, without torch. How it is written, read, measured and compared."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from math import prod
from types import MappingProxyType

Form = tuple[str, tuple[int, ...]]  # of a tensor: torch's name of its dtype, and its shape
SAFETENSORS: Mapping[str, str] = MappingProxyType(
    {
        "float64": "F64",
        "float32": "F32",
        "float16": "F16",
        "bfloat16": "BF16",
        "int64": "I64",
        "int32": "I32",
        "int16": "I16",
        "int8": "I8",
        "uint8": "U8",
    }
)
"""The dtypes that may travel, with their names in a safetensors header."""

# Bounded in every part: Python needs quadratic time to read a number of many digits.
_DESCRIBED = re.compile(r"([a-z0-9]{3,10})\[((?:\d{1,19}(?:, ?\d{1,19}){0,15})?)\]")


def size_of(form: Form) -> int:
    """Return the bytes of an array."""
    bits = int("".join(filter(str.isdigit, form[0])))
    return prod(form[1]) * bits // 8


def describe_form(form: Form) -> str:
    """Return a tensor's dtype and shape as text: ``float32[64, 3, 7, 7]``."""
    return f"{form[0]}{list(form[1])}"


def fingerprint(forms: Mapping[str, Form]) -> str:
    """Return the hex SHA-256 of names, dtypes and shapes: updates of equal ones can be averaged."""
    rows = [(name, dtype, list(shape)) for name, (dtype, shape) in sorted(forms.items())]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def read_form(text: str) -> Form:
    """Undo `describe_form`; raise ValueError for any other text."""
    found = _DESCRIBED.fullmatch(text)
    if found is None:
        raise ValueError(f"{text[:80]!r} is no dtype with a shape")
    return found[1], tuple(int(size) for size in found[2].split(",") if size)
