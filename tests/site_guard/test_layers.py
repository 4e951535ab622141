"""A payload is written anew: finite numbers, one order of tensors, nothing else."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
import safetensors.torch
import torch

from fedstrata.protocol.codings import EXACT
from fedstrata.protocol.forms import Form
from fedstrata.protocol.limits import Refused
from fedstrata.protocol.payload import encode
from site_guard.layers import checked, forms_of

TENSORS = {
    "z": torch.arange(3.0),
    "a": torch.ones(2, dtype=torch.bfloat16),
    "n": torch.tensor([1, -1]),
    "b": torch.ones(2, 2, dtype=torch.float16),
    "d": torch.ones((), dtype=torch.float64),
    "i": torch.ones(5, dtype=torch.int8),
    "u": torch.ones(5, dtype=torch.uint8),
    "e": torch.ones(0),
    "s": torch.ones(1, dtype=torch.int16),
    "t": torch.ones(1, dtype=torch.int32),
}
SCHEMA: dict[str, Form] = {
    name: (str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))
    for name, tensor in TENSORS.items()
}


def written(names: list[str], filler: bytes = b"") -> bytes:
    """Return a payload with the tensors in this order, and ``filler`` in its header."""
    entries = json.loads(encode(TENSORS)[8:].split(b"}}")[0] + b"}}")
    source, header, body = encode(TENSORS), {}, b""
    start = 8 + int.from_bytes(source[:8], "little")
    for name in names:
        begin, end = entries[name]["data_offsets"]
        header[name] = {**entries[name], "data_offsets": [len(body), len(body) + end - begin]}
        body += source[start + begin : start + end]
    text = json.dumps(header).encode() + filler
    return struct.pack("<Q", len(text)) + text + body


def test_what_safetensors_writes_stays_as_it_is() -> None:
    payload = encode(TENSORS)
    assert checked("common", payload, SCHEMA, EXACT) == payload


@pytest.mark.parametrize("names", [list(TENSORS), list(reversed(TENSORS)), sorted(TENSORS)])
def test_any_order_of_the_tensors_leaves_as_one(names: list[str]) -> None:
    assert checked("common", written(names, b" " * 40), SCHEMA, EXACT) == encode(TENSORS)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_is_not_finite_is_refused(dtype: str, value: float) -> None:
    tensor = torch.ones(9, dtype=getattr(torch, dtype))
    schema: dict[str, Form] = {"w": (dtype, (9,))}
    assert checked("common", encode({"w": tensor * 0}), schema, EXACT)
    largest = torch.full_like(tensor, torch.finfo(tensor.dtype).max)
    assert checked("common", encode({"w": -largest}), schema, EXACT)
    tensor[4] = value
    with pytest.raises(Refused, match="'w' of the group 'common', which is not finite"):
        checked("common", encode({"w": tensor}), schema, EXACT)


def test_the_bits_of_a_nan_carry_nothing_out() -> None:
    bits = np.array([0x7FC00001, 0x7FDEADBE], dtype="<u4").view("<f4")
    payload = safetensors.torch.save({"w": torch.from_numpy(bits.copy())})
    with pytest.raises(Refused, match="not finite"):
        checked("common", payload, {"w": ("float32", (2,))}, EXACT)


def test_bytes_that_are_no_payload_are_refused() -> None:
    with pytest.raises(Refused, match="'common' is no safetensors file"):
        forms_of("common", b"1234")
