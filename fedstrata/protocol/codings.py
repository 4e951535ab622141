"""The codings: how tensors of a group are written for the wire, and which arrays each makes.

A coding turns each tensor into *parts*: arrays whose names, dtypes and shapes follow from the
tensor and the coding's options alone, but for the rank of `LowRank`, which has a bound. So a receiver
that knows the model knows beforehand how large a payload can be, and need not believe what it says.
`fedstrata.protocol.codec` makes the parts.
This module needs no torch, so that a site's own process can check names and sizes without it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from math import prod
from types import MappingProxyType
from typing import Any, ClassVar

from fedstrata.protocol.elias_fano import packed_bytes
from fedstrata.protocol.forms import Form, size_of
from fedstrata.support.errors import UserError
from fedstrata.support.options import read_options
from fedstrata.support.registry import find

Shapes = Mapping[str, tuple[int, ...]]  # of arrays by name, as a payload claims them
NOTHING: Shapes = MappingProxyType({})
UNCHANGED = "unchanged"
UNCHANGED_FORM: Form = ("uint8", (0,))
PARTS = ("", "left", "right", "scale")  # of codings that leave a choice to the sender
MOST_RANK = 2**20  # sums of so many products of 16 bits are exact in float64
STATISTICS = ("running_mean", "running_var")  # BatchNorm's: small, and not trained
CODED_DTYPES = ("float32", "float64")
VALUES = ("float32", "bfloat16")


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

    def parts(self, name: str, form: Form, found: Shapes = NOTHING) -> dict[str, Form]:
        """Return name and form of each array that the tensor is written as.

        Where the sender may choose they are the largest, or those that fit to arrays of the shapes
        ``found``.
        """
        if self.exactly(name, form):
            return {name: form}
        own = {
            part: found[part_name(name, part)] for part in PARTS if part_name(name, part) in found
        }
        return {part_name(name, part): made for part, made in self.coded(form, own).items()}

    def coded(self, form: Form, found: Shapes = NOTHING) -> dict[str, Form]:
        """Return the parts of a tensor that is not written exactly; the part "" is the main one.

        ``found`` are the shapes of its parts in a payload, where the sender may choose.
        """
        raise NotImplementedError

    def possible(self, name: str, form: Form) -> dict[str, Form]:
        """Return every array that the tensor may be written as, each in its largest form."""
        return self.parts(name, form)

    def at(self, number: int, rounds: int) -> Coding:
        """Return the coding as a sender uses it in round ``number`` of ``rounds``."""
        del number, rounds
        return self

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

    def coded(self, form: Form, _: Shapes = NOTHING) -> dict[str, Form]:
        """Return one array of the tensor's shape."""
        return {"": ("bfloat16", form[1])}


@dataclass(frozen=True)
class Float16(Coding):
    """Differences in float16 over the tensor's largest magnitude: 11 bits of precision."""

    name = "float16"

    def coded(self, form: Form, _: Shapes = NOTHING) -> dict[str, Form]:
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

    def coded(self, form: Form, _: Shapes = NOTHING) -> dict[str, Form]:
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

    def coded(self, form: Form, _: Shapes = NOTHING) -> dict[str, Form]:
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

    def coded(self, form: Form, _: Shapes = NOTHING) -> dict[str, Form]:
        """Return the packed indices, and the values in the order of the indices."""
        count = self.count(form)
        return {
            "indices": ("uint8", (packed_bytes(count, prod(form[1])),)),
            "values": (self.values, (count,)),
        }


@dataclass(frozen=True)
class LowRank(Coding):
    """The difference of a matrix as two factors of low rank, in 16 bits a value; see the codec.

    A convolution is a matrix of its filters. Where factors with the rank that reaches the energy are
    no smaller than the difference, it is written itself.

    Parameters
    ----------
    energy_start, energy_end : float
        The least share of the sum of squares that factors have, in the first and in the last round.
    rank : int or None
        The most ranks, even if they do not reach the energy; None for as many as are smaller.
    least : int
        Tensors with fewer values are written as they are.
    """

    energy_start: float
    energy_end: float
    rank: int | None
    least: int

    name = "lowrank"

    def check(self, where: str) -> None:
        """Raise UserError for a value out of its range."""
        for key in ("energy_start", "energy_end"):
            if not 0 < getattr(self, key) <= 1:
                raise UserError(
                    f"{where}.{key} must be greater than 0 and at most 1, got {getattr(self, key)}"
                )
        if self.rank is not None and self.rank < 1:
            raise UserError(f"{where}.rank must be at least 1, or null: got {self.rank}")
        if self.least < 0:
            raise UserError(f"{where}.least must be 0 or greater, got {self.least}")

    def at(self, number: int, rounds: int) -> LowRank:
        """Return the coding with the energy of a round, which rises evenly."""
        done = min(max(number - 1, 0) / max(rounds - 1, 1), 1)
        energy = self.energy_start + done * (self.energy_end - self.energy_start)
        return replace(self, energy_start=energy, energy_end=energy)

    def exactly(self, name: str, form: Form) -> bool:
        """Return whether the tensor is written as it is."""
        few = len(form[1]) < 2 or prod(form[1]) < self.least
        return few or super().exactly(name, form) or not self.most(form)

    def most(self, form: Form) -> int:
        """Return the highest rank of which the factors are smaller than the tensor."""
        rows, columns = form[1][0], prod(form[1][1:])
        smaller = (size_of(form) - size_of(("float32", ())) - 1) // (2 * (rows + columns))
        return max(min(smaller, rows, columns, MOST_RANK, self.rank or MOST_RANK), 0)

    def coded(self, form: Form, found: Shapes = NOTHING) -> dict[str, Form]:
        """Return both factors and their scale, or the difference itself."""
        if self.rank is None and (not found or "" in found):
            return {"": form}
        right = found.get("right", ())
        return self._factors(form, right[0] if right else MOST_RANK)

    def possible(self, name: str, form: Form) -> dict[str, Form]:
        """Return what `coded` does, for either choice."""
        if self.exactly(name, form):
            return {name: form}
        factors = {part_name(name, p): f for p, f in self._factors(form, MOST_RANK).items()}
        return factors | self.parts(name, form)

    def _factors(self, form: Form, rank: int) -> dict[str, Form]:
        """Return the factors of that rank, or of the nearest that there may be."""
        rank = min(max(rank, 1), self.most(form))
        return {
            "left": ("int16", (form[1][0], rank)),
            "right": ("int16", (rank, prod(form[1][1:]))),
            "scale": ("float32", ()),
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
    "lowrank": LowRank,
}

EXACT = Exact()


@dataclass(frozen=True)
class Codings:
    """How each group travels; a group that is not named travels exactly.

    Parameters
    ----------
    up, down : mapping of str to Coding
        By group: from the sites, and to them.
    rounds : int
        How many the run has.
    """

    up: Mapping[str, Coding]
    down: Mapping[str, Coding]
    rounds: int = 0

    def to_site(self, group: str, number: int | None = None) -> Coding:
        """Return how the group travels from the server to the sites; as coded in a round, or at all."""
        return self._in_round(self.down.get(group, EXACT), number)

    def from_site(self, group: str, number: int | None = None) -> Coding:
        """Return how the group travels from a site to the server; as coded in a round, or at all."""
        return self._in_round(self.up.get(group, EXACT), number)

    def _in_round(self, coding: Coding, number: int | None) -> Coding:
        return coding if number is None else coding.at(number, self.rounds)

    @property
    def loses_updates(self) -> bool:
        """Whether what sites send loses something in any group."""
        return any(coding.lossy for coding in self.up.values())

    def describe(self, group: str) -> str:
        """Return how the group travels in both directions, for people."""
        return f"up {_describe(self.from_site(group))}, down {_describe(self.to_site(group))}"


def read_codings(up: Mapping[str, object], down: Mapping[str, object], rounds: int = 0) -> Codings:
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
        rounds,
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
        own = {**coding.possible(name, form), unchanged(name): UNCHANGED_FORM}
        if twice := parts.keys() & own.keys():
            raise TypeError(f"{min(twice)} is the name of parts of two tensors")
        parts |= own
    return parts


def expected_arrays(schema: Mapping[str, Form], coding: Coding, found: Shapes) -> dict[str, Form]:
    """Return the arrays that a payload must have whose arrays have the names and shapes ``found``.

    The sender chooses for each tensor: its parts, or the mark that it is unchanged.
    """
    parts: dict[str, Form] = {}
    for name, form in schema.items():
        if unchanged(name) in found:
            parts[unchanged(name)] = UNCHANGED_FORM
        else:
            parts |= coding.parts(name, form, found)
    return parts


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
