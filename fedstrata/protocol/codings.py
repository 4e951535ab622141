"""The codings: how tensors of a group are written for the wire, and which arrays each makes.

A coding turns each tensor into *parts*: arrays whose names, dtypes and shapes follow from the
tensor and the coding's options alone. So a receiver that knows the model knows every size
beforehand, and need not believe what a payload says. `fedstrata.protocol.codec` makes the parts.
This module needs no torch, so that a site's own process can check names and sizes without it.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Set
from dataclasses import asdict, dataclass
from math import prod
from types import MappingProxyType
from typing import Any, ClassVar

from fedstrata.protocol.elias_fano import packed_bytes
from fedstrata.support.errors import UserError
from fedstrata.support.options import read_options
from fedstrata.support.registry import find

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

UNCHANGED = "unchanged"
UNCHANGED_FORM: Form = ("uint8", (0,))
STATISTICS = ("running_mean", "running_var")  # BatchNorm's: small, and not trained
CODED_DTYPES = ("float32", "float64")
VALUES = ("float32", "bfloat16")
# Bounded in every part: Python needs quadratic time to read a number of many digits.
_DESCRIBED = re.compile(r"([a-z0-9]{3,10})\[((?:\d{1,19}(?:, ?\d{1,19}){0,15})?)\]")


@dataclass(frozen=True)
class Coding:
    """A way to write tensors; the fields of a subclass are its options, with values in conf/coding/.

    Attributes
    ----------
    lossy : bool
        Whether most tensors are written as a difference to what the receiver has, not exactly.
    remembers : bool
        Whether a site keeps what it received on its disk, as the base of the next difference.
    """

    name: ClassVar[str]
    lossy: ClassVar[bool] = True
    remembers: ClassVar[bool] = True

    def check(self, where: str) -> None:
        """Raise UserError for a value out of its range; ``where`` is its key, for the text."""

    def exactly(self, name: str, form: Form) -> bool:
        """Return whether the tensor is written as it is.

        So are tensors of other dtypes than float32 and float64, BatchNorm's statistics, and empty
        tensors.
        """
        dtype, shape = form
        statistic = name.rpartition(".")[2] in STATISTICS
        return not self.lossy or dtype not in CODED_DTYPES or statistic or not prod(shape)

    def parts(self, name: str, form: Form) -> dict[str, Form]:
        """Return name and form of each array that the tensor is written as."""
        if self.exactly(name, form):
            return {name: form}
        return {part_name(name, part): found for part, found in self.coded(form).items()}

    def coded(self, form: Form) -> dict[str, Form]:
        """Return the parts of a tensor that is not written exactly; the part "" is the main one."""
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """Return name and options as plain data."""
        return {"name": self.name, **asdict(self)}


@dataclass(frozen=True)
class Exact(Coding):
    """The values themselves. A site keeps none of them, and is sent all of them every round."""

    name = "exact"
    lossy = False
    remembers = False


@dataclass(frozen=True)
class Changed(Coding):
    """The values themselves, of tensors that differ from what the site has; to sites only."""

    name = "changed"
    lossy = False


@dataclass(frozen=True)
class BFloat16(Coding):
    """Differences in bfloat16: 8 bits of precision, the range of float32."""

    name = "bfloat16"

    def coded(self, form: Form) -> dict[str, Form]:
        """Return one array of the tensor's shape."""
        return {"": ("bfloat16", form[1])}


@dataclass(frozen=True)
class Float16(Coding):
    """Differences in float16 over the tensor's largest magnitude: 11 bits of precision."""

    name = "float16"

    def coded(self, form: Form) -> dict[str, Form]:
        """Return an array of the tensor's shape, and the scale, one float32."""
        return {"": ("float16", form[1]), "scale": ("float32", ())}


@dataclass(frozen=True)
class Int8(Coding):
    """Differences as integers from -127 to 127 times a scale.

    Parameters
    ----------
    per_channel : bool
        Whether each index of the first axis has its own scale; otherwise the tensor has one.
    """

    per_channel: bool

    name = "int8"

    def coded(self, form: Form) -> dict[str, Form]:
        """Return an array of the tensor's shape, and the scale or scales in float32."""
        return {"": ("int8", form[1]), "scale": ("float32", _scales(self.per_channel, form[1]))}


@dataclass(frozen=True)
class LowBit(Coding):
    """Differences as odd multiples of half a step that is fitted to them, in 1, 2 or 4 bits.

    Parameters
    ----------
    bits : int
        Bits of a value: 1 is its sign alone, with the mean magnitude.
    per_channel : bool
        Whether each index of the first axis has its own step; otherwise the tensor has one.
    """

    bits: int
    per_channel: bool

    name = "lowbit"

    def check(self, where: str) -> None:
        """Raise UserError for a value out of its range."""
        if self.bits not in (1, 2, 4):
            raise UserError(f"{where}.bits must be 1, 2 or 4, got {self.bits}")

    def coded(self, form: Form) -> dict[str, Form]:
        """Return the packed values, and the scale or scales in float32."""
        return {
            "packed": ("uint8", (-(-prod(form[1]) * self.bits // 8),)),
            "scale": ("float32", _scales(self.per_channel, form[1])),
        }


@dataclass(frozen=True)
class TopK(Coding):
    """The largest differences of each tensor, with their indices; the others wait for a later round.

    Parameters
    ----------
    fraction : float
        Share of a tensor's values that is written, rounded up.
    values : str
        Their dtype: ``float32`` or ``bfloat16``.
    least : int
        Tensors with fewer values are written as they are.
    """

    fraction: float
    values: str
    least: int

    name = "topk"

    def check(self, where: str) -> None:
        """Raise UserError for a value out of its range."""
        if not 0 < self.fraction <= 1:
            raise UserError(
                f"{where}.fraction must be greater than 0 and at most 1, got {self.fraction}"
            )
        if self.values not in VALUES:
            raise UserError(f"{where}.values must be {' or '.join(VALUES)}, got {self.values!r}")
        if self.least < 0:
            raise UserError(f"{where}.least must be 0 or greater, got {self.least}")

    def exactly(self, name: str, form: Form) -> bool:
        """Return whether the tensor is written as it is."""
        return super().exactly(name, form) or prod(form[1]) < self.least

    def count(self, form: Form) -> int:
        """Return how many values of the tensor are written."""
        size = prod(form[1])
        return min(max(math.ceil(self.fraction * size), 1), size)

    def coded(self, form: Form) -> dict[str, Form]:
        """Return the packed indices, and the values in the order of the indices."""
        count = self.count(form)
        return {
            "indices": ("uint8", (packed_bytes(count, prod(form[1])),)),
            "values": (self.values, (count,)),
        }


def _scales(per_channel: bool, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of a tensor's scales: one for each index of its first axis, or one for all."""
    return shape[:1] if per_channel and len(shape) > 1 else ()


CODINGS: Mapping[str, type[Coding]] = {
    "exact": Exact,
    "changed": Changed,
    "bfloat16": BFloat16,
    "float16": Float16,
    "int8": Int8,
    "lowbit": LowBit,
    "topk": TopK,
}

EXACT = Exact()


@dataclass(frozen=True)
class Codings:
    """How each group travels; a group that is not named travels exactly.

    Parameters
    ----------
    up, down : mapping of str to Coding
        By group: from the sites, and to them.
    """

    up: Mapping[str, Coding]
    down: Mapping[str, Coding]

    def to_site(self, group: str) -> Coding:
        """Return how the group travels from the server to the sites."""
        return self.down.get(group, EXACT)

    def from_site(self, group: str) -> Coding:
        """Return how the group travels from a site to the server."""
        return self.up.get(group, EXACT)

    @property
    def loses_updates(self) -> bool:
        """Whether what sites send loses something in any group."""
        return any(coding.lossy for coding in self.up.values())

    def describe(self, group: str) -> str:
        """Return how the group travels in both directions, for people."""
        return f"up {_describe(self.from_site(group))}, down {_describe(self.to_site(group))}"


def read_codings(up: Mapping[str, object], down: Mapping[str, object]) -> Codings:
    """Return the codings that ``strategy.coding`` and ``strategy.coding_down`` ask for.

    Raises
    ------
    UserError
        A coding does not exist or is not for that direction, or its options are missing, unknown or
        out of range.
    """
    found = Codings(
        {group: _read(each, f"strategy.coding.{group}") for group, each in up.items()},
        {group: _read(each, f"strategy.coding_down.{group}") for group, each in down.items()},
    )
    # Sites need no such coding: they leave out unchanged tensors with `exact` as well.
    for group, coding in found.up.items():
        if isinstance(coding, Changed):
            raise UserError(
                f"strategy.coding.{group}: 'changed' is for strategy.coding_down; what sites send "
                f"leaves out unchanged tensors anyway: write strategy.coding.{group}=exact"
            )
    return found


def part_name(name: str, part: str) -> str:
    """Return the name that a part of the tensor ``name`` has in a payload."""
    return f"{name}/{part}" if part else name


def unchanged(name: str) -> str:
    """Return the name of the empty array that marks a tensor as unchanged."""
    return part_name(name, UNCHANGED)


def possible_arrays(schema: Mapping[str, Form], coding: Coding) -> dict[str, Form]:
    """Return every array that a payload of these tensors may have, marks of unchanged ones included.

    Raises
    ------
    TypeError
        Parts of two tensors would have the same name.
    """
    parts: dict[str, Form] = {}
    for name, form in schema.items():
        own = {**coding.parts(name, form), unchanged(name): UNCHANGED_FORM}
        if twice := parts.keys() & own.keys():
            raise TypeError(f"{min(twice)} is the name of parts of two tensors")
        parts |= own
    return parts


def expected_arrays(schema: Mapping[str, Form], coding: Coding, names: Set[str]) -> dict[str, Form]:
    """Return the arrays that a payload must have whose arrays have the ``names`` given.

    The sender chooses one thing for each tensor: its parts, or the mark that it is unchanged.
    """
    parts: dict[str, Form] = {}
    for name, form in schema.items():
        if unchanged(name) in names:
            parts[unchanged(name)] = UNCHANGED_FORM
        else:
            parts |= coding.parts(name, form)
    return parts


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


def _read(options: object, where: str) -> Coding:
    if not isinstance(options, Mapping):
        raise UserError(
            f"{where}: expected a coding, got {str(options)[:80]!r}; there are {', '.join(CODINGS)}"
        )
    chosen = find(f"{where}.name", str(options.get("name")), CODINGS)
    coding = read_options(chosen, {k: v for k, v in options.items() if k != "name"}, where)
    coding.check(where)
    return coding


def _describe(coding: Coding) -> str:
    options = ", ".join(f"{name} {value}" for name, value in asdict(coding).items())
    return f"{coding.name} ({options})" if options else coding.name
