"""Encodes a group's tensors by its coding and decodes them: exactly, or as differences to a base."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedstrata.protocol import payload
from fedstrata.protocol.codings import (
    BFloat16,
    Coding,
    Float16,
    Int8,
    LowBit,
    LowRank,
    TopK,
    expected_arrays,
    part_name,
    possible_arrays,
    unchanged,
)
from fedstrata.protocol.elias_fano import PackingError, pack, unpack
from fedstrata.protocol.forms import Form
from fedstrata.protocol.payload import PayloadError
from fedstrata.protocol.tensors import TensorSpec

LEVELS = 127  # of int8, on either side of 0
LEVELS_16 = 32767  # of the factors of lowrank
FITS = 4  # how often the step of lowbit is fitted to the values
FIRST_STEP = {1: 2.0, 2: 1.248, 4: 0.420}
"""By bits, the best step for a normal distribution over its mean magnitude: Max 1960, table II."""
Parts = Mapping[str, Tensor]
Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Change:
    """What a payload has of one tensor: its value, a difference, or neither if it is unchanged."""

    value: Tensor | None = None
    difference: Tensor | None = None

    def apply(self, base: Tensor) -> Tensor:
        """Return the receiver's new tensor, if it had ``base``; never ``base`` itself."""
        if self.value is not None:
            return self.value
        return base.clone() if self.difference is None else base + self.difference


def forms(schema: Mapping[str, TensorSpec]) -> dict[str, Form]:
    """Return dtype and shape of each tensor, as the codings take them."""
    return {name: (spec.dtype, tuple(spec.shape)) for name, spec in schema.items()}


def encode(
    coding: Coding, target: Tensors, base: Tensors, error_feedback: Tensors
) -> tuple[bytes, dict[str, Tensor]]:
    """Return the payload that turns ``base`` into ``target``, and the new error feedback.

    Parameters
    ----------
    coding : Coding
        How it is written.
    target, base : mapping of str to Tensor
        The tensors as they are here, and as the receiver has them: finite, the same names, shapes
        and dtypes.
    error_feedback : mapping of str to Tensor
        What coding lost before, by name, in the tensors' shapes. It is added to the difference
        (Seide et al. 2014; Karimireddy et al. 2019, algorithm 1).

    Returns
    -------
    tuple of bytes and dict
        The payload, and by name what it lacks of the differences. Tensors that are written exactly
        lose nothing. A tensor without a difference is marked as unchanged.
    """
    parts: dict[str, Tensor] = {}
    lost: dict[str, Tensor] = {}
    for name, tensor in target.items():
        form = forms({name: TensorSpec.of(tensor)})[name]
        exactly = coding.exactly(name, form)
        wanted = tensor if exactly else _difference(tensor, base[name], error_feedback.get(name))
        if same_bits(tensor, base[name]) if exactly else not wanted.any():
            parts[unchanged(name)] = torch.empty(0, dtype=torch.uint8)
        elif exactly:
            parts[name] = tensor
        else:
            write, _ = _CODECS[type(coding)]
            made = write(coding, wanted)
            parts |= {part_name(name, part): each for part, each in made.items()}
            lost[name] = wanted - _read(coding, name, form, made)
    return payload.encode(parts), lost


def decode(
    data: bytes,
    schema: Mapping[str, TensorSpec],
    coding: Coding,
    *,
    max_magnitude: float | None,
    borrow: bool = False,
) -> dict[str, Change]:
    """Return the change of each tensor of ``schema`` that ``data`` has.

    The schema and the coding decide which arrays there are and how large they are. Nothing is
    allocated because the bytes claim it. Memory: ``data``, a copy of it, and the coded tensors in
    full size. While one is read, as much again, with ``lowrank`` four times as much, or with ``topk``
    up to 60 bytes per value.

    Parameters
    ----------
    data : bytes
        What `encode` wrote, or anything else.
    schema : mapping of str to TensorSpec
        The tensors.
    coding : Coding
        How they are written.
    max_magnitude : float or None
        The largest magnitude of a value or a difference; None for any finite one.
    borrow : bool
        Return values that are written exactly as views of ``data``; nobody may write to them.

    Raises
    ------
    PayloadError
        `encode` would not have written this; the text names the array and the reason.
    """
    wanted, most = forms(schema), _specs(possible_arrays(forms(schema), coding))
    found = payload.shapes_in(data, most)
    listed = _specs(expected_arrays(wanted, coding, found))
    arrays = payload.decode(data, listed, max_magnitude=max_magnitude, borrow=borrow)
    changes = {}
    for name, form in wanted.items():
        if unchanged(name) in found:
            changes[name] = Change()
        elif coding.exactly(name, form):
            changes[name] = Change(value=arrays[name])
        else:
            own = coding.parts(name, form, found)
            parts = {array[len(name) + 1 :]: arrays[array] for array in own}
            difference = _read(coding, name, form, parts)
            payload.check_values({f"{name} (the difference)": difference}, max_magnitude)
            changes[name] = Change(difference=difference)
    return changes


def apply_changes(changes: Mapping[str, Change], base: Tensors) -> dict[str, Tensor]:
    """Return the tensors that a receiver has after ``changes`` to ``base``."""
    return {name: change.apply(base[name]) for name, change in changes.items()}


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors of one dtype and shape are equal in every bit; -0 is not 0."""
    pair = [each.detach().contiguous().reshape(-1).view(torch.uint8) for each in (one, other)]
    return torch.equal(*pair)


def _difference(tensor: Tensor, base: Tensor, error_feedback: Tensor | None) -> Tensor:
    plain = tensor - base
    return plain if error_feedback is None else plain + error_feedback


def _specs(parts: Mapping[str, Form]) -> dict[str, TensorSpec]:
    return {name: TensorSpec(shape, dtype) for name, (dtype, shape) in parts.items()}


def _read(coding: Coding, name: str, form: Form, parts: Parts) -> Tensor:
    """Return the difference that the parts of a tensor encode, in its dtype and shape."""
    _, read = _CODECS[type(coding)]
    dtype: torch.dtype = getattr(torch, form[0])
    difference: Tensor = read(coding, name, form, parts)
    return difference.to(dtype).reshape(form[1])


# The codings. Each writes a difference as parts, and reads it from parts of the right form.


def _write_bfloat16(_: BFloat16, difference: Tensor) -> dict[str, Tensor]:
    return {"": difference.to(torch.bfloat16)}


def _read_bfloat16(_: BFloat16, __: str, ___: Form, parts: Parts) -> Tensor:
    return parts[""].float()


def _write_float16(_: Float16, difference: Tensor) -> dict[str, Tensor]:
    scale = difference.abs().max().float()
    return {"": _over(difference, scale).to(torch.float16), "scale": scale}


def _read_float16(_: Float16, name: str, __: Form, parts: Parts) -> Tensor:
    values = parts[""]
    if values.abs().max() > 1:
        raise PayloadError(f"{name!r} has values beyond its scale")
    return values.float() * _scale(name, parts["scale"])


def _write_int8(coding: Int8, difference: Tensor) -> dict[str, Tensor]:
    rows = _rows(coding, difference)
    scale = (rows.abs().amax(dim=1, keepdim=True) / LEVELS).float()
    levels = _over(rows, scale).round().clamp(-LEVELS, LEVELS).to(torch.int8)
    return {
        "": levels.reshape(difference.shape),
        "scale": scale.reshape(_scales(coding, difference)),
    }


def _read_int8(_: Int8, name: str, form: Form, parts: Parts) -> Tensor:
    levels = parts[""]
    if levels.min() < -LEVELS:
        raise PayloadError(f"{name!r} has the value -128, which is not written")
    return levels.float() * _along(_scale(name, parts["scale"]), form)


def _write_lowbit(coding: LowBit, difference: Tensor) -> dict[str, Tensor]:
    rows = _rows(coding, difference)
    most = 2 ** (coding.bits - 1)  # levels on either side of 0
    sizes = rows.abs()
    step = FIRST_STEP[coding.bits] * sizes.mean(dim=1, keepdim=True)
    for _ in range(FITS):  # Lloyd 1982, but with levels that stay evenly spaced
        levels = _over(sizes, step).floor().clamp(max=most - 1) + 0.5
        step = (sizes * levels).sum(1, keepdim=True) / levels.square().sum(1, keepdim=True)
    step = step.float()
    levels = _over(sizes, step).floor().clamp(max=most - 1)
    codes = torch.where(rows < 0, most - 1 - levels, most + levels).to(torch.uint8).reshape(-1)
    return {
        "packed": _packed(codes, coding.bits),
        "scale": step.reshape(_scales(coding, difference)),
    }


def _read_lowbit(coding: LowBit, name: str, form: Form, parts: Parts) -> Tensor:
    size = prod(form[1])
    each = 8 // coding.bits
    shifts = torch.arange(each, dtype=torch.uint8) * coding.bits
    codes: Tensor = (parts["packed"][:, None] >> shifts) & (2**coding.bits - 1)
    codes = codes.reshape(-1)
    if codes[size:].any():
        raise PayloadError(f"{name!r} has bits set behind its last value")
    levels = codes[:size].float() + (0.5 - 2 ** (coding.bits - 1))
    read: Tensor = levels.reshape(form[1]) * _along(_scale(name, parts["scale"]), form)
    return read


def _packed(codes: Tensor, bits: int) -> Tensor:
    """Return codes of ``bits`` bits as bytes; the first code is in the lowest bits of the first byte."""
    each = 8 // bits
    padded = torch.zeros(-(-len(codes) // each) * each, dtype=torch.uint8)
    padded[: len(codes)] = codes
    columns = padded.reshape(-1, each)
    made = torch.zeros(len(columns), dtype=torch.uint8)
    for index in range(each):
        made |= columns[:, index] << (index * bits)
    return made


def _write_topk(coding: TopK, difference: Tensor) -> dict[str, Tensor]:
    flat = difference.reshape(-1)
    indices = _largest(flat.abs().numpy(), coding.count(("", tuple(difference.shape))))
    values = flat[torch.from_numpy(indices)].to(getattr(torch, coding.values))
    return {"indices": torch.from_numpy(pack(indices, flat.numel())), "values": values}


def _read_topk(coding: TopK, name: str, form: Form, parts: Parts) -> Tensor:
    dtype: torch.dtype = getattr(torch, form[0])
    flat = torch.zeros(prod(form[1]), dtype=dtype)
    try:
        indices = unpack(parts["indices"].numpy(), coding.count(form), flat.numel())
    except PackingError as error:
        raise PayloadError(f"{name!r} has wrong indices: {error}") from None
    flat[torch.from_numpy(indices)] = parts["values"].to(dtype)
    return flat


def _write_lowrank(coding: LowRank, difference: Tensor) -> dict[str, Tensor]:
    """Return the best factors of the least rank that reaches the energy, or the difference itself.

    They are those of a truncated singular value decomposition (Eckart and Young 1936), by the
    eigenvectors of the smaller Gram matrix: for wide matrices that is many times faster.
    """
    matrix = difference.reshape(len(difference), -1).double()
    size = matrix.abs().max()
    matrix = matrix / size  # so that no square is too small or too large
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    energies, vectors = torch.linalg.eigh(wide @ wide.T)
    reached = energies.flip(0).clamp(min=0).cumsum(0)  # of the largest first
    # Never rank 0, and at least the rank that reaches it: the reached ones before it, and one more.
    rank = min(int((reached < coding.energy_start * reached[-1]).sum()) + 1, len(wide))
    most = coding.most(forms({"": TensorSpec.of(difference)})[""])
    if rank > most and coding.rank is None:
        return {"": difference}
    basis = vectors.flip(1)[:, : min(rank, most)]
    pair = basis, basis.T @ wide
    left, right = pair if wide is matrix else (pair[1].T, pair[0].T)
    steps = [each.abs().max() / LEVELS_16 for each in (left, right)]
    levels = [
        _over(each, step).round().to(torch.int16)
        for each, step in zip((left, right), steps, strict=True)
    ]
    scale = (steps[0] * steps[1] * size).float()
    return {"left": levels[0].contiguous(), "right": levels[1].contiguous(), "scale": scale}


def _read_lowrank(_: LowRank, name: str, __: Form, parts: Parts) -> Tensor:
    if "" in parts:
        return parts[""]
    left, right = parts["left"], parts["right"]
    if min(left.min(), right.min()) < -LEVELS_16:
        raise PayloadError(f"{name!r} has the value -32768, which is not written")
    # Sums of whole numbers are exact in float64, in any order: all machines read the same bits.
    return (left.double() @ right.double()) * _scale(name, parts["scale"]).double()


def _rows(coding: Int8 | LowBit, difference: Tensor) -> Tensor:
    """Return the values as rows that share a scale."""
    return difference.reshape(prod(_scales(coding, difference)), -1)


def _scales(coding: Int8 | LowBit, difference: Tensor) -> tuple[int, ...]:
    """Return the shape of a difference's scales."""
    return coding.coded(("", tuple(difference.shape)))["scale"][1]


def _along(scale: Tensor, form: Form) -> Tensor:
    """Return scales shaped to multiply the first axis; a single scale stays as it is."""
    return scale.reshape(-1, *[1] * (len(form[1]) - 1)) if scale.dim() else scale


def _largest(magnitudes: Any, count: int) -> Any:
    """Return the indices of the ``count`` largest, ascending; the first among equal ones.

    Not ``torch.topk``: which of equal values it takes is not defined, and bits would differ.
    """
    least = np.partition(magnitudes, len(magnitudes) - count)[len(magnitudes) - count]
    above = np.flatnonzero(magnitudes > least)
    equal = np.flatnonzero(magnitudes == least)[: count - len(above)]
    return np.sort(np.concatenate([above, equal])).astype(np.int64)


def _over(values: Tensor, scale: Tensor) -> Tensor:
    """Return ``values / scale``, and 0 where the scale is 0; error feedback keeps what that loses."""
    return torch.where(scale > 0, values / scale, torch.zeros_like(values))


def _scale(name: str, scale: Tensor) -> Tensor:
    """Return a scale if it is not negative; `payload.decode` has checked that it is finite."""
    if (scale < 0).any():
        raise PayloadError(f"{name!r} has a scale below 0")
    return scale


_CODECS: Mapping[type[Coding], tuple[Callable[..., dict[str, Tensor]], Callable[..., Tensor]]] = {
    BFloat16: (_write_bfloat16, _read_bfloat16),
    Float16: (_write_float16, _read_float16),
    Int8: (_write_int8, _read_int8),
    LowBit: (_write_lowbit, _read_lowbit),
    TopK: (_write_topk, _read_topk),
    LowRank: (_write_lowrank, _read_lowrank),
}
