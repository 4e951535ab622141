"""Coded layers: exact where they say so, near where not, nothing lost for good; the rest is refused."""

from __future__ import annotations

import json
import math
import re
import struct
import tracemalloc
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedstrata.protocol import payload
from fedstrata.protocol.codec import Change, apply_changes, decode, encode, forms, same_bits
from fedstrata.protocol.codings import (
    EXACT,
    BFloat16,
    Changed,
    Coding,
    Float16,
    Int8,
    LowBit,
    LowRank,
    TopK,
    expected_arrays,
    unchanged,
)
from fedstrata.protocol.elias_fano import pack
from fedstrata.protocol.payload import PayloadError
from fedstrata.protocol.tensors import TensorSpec

LOSSY: dict[str, Coding] = {
    "bfloat16": BFloat16(),
    "float16": Float16(),
    "int8": Int8(per_channel=False),
    "int8 per channel": Int8(per_channel=True),
    "lowbit 4": LowBit(bits=4, per_channel=False),
    "lowbit 2": LowBit(bits=2, per_channel=True),
    "lowbit 1": LowBit(bits=1, per_channel=True),
    "topk": TopK(fraction=0.1, values="bfloat16", least=0),
    "topk float32": TopK(fraction=0.03, values="float32", least=0),
    "lowrank": LowRank(energy_start=0.9, energy_end=0.9, rank=None, least=0),
    "lowrank 1": LowRank(energy_start=0.9, energy_end=0.9, rank=1, least=0),
}
ALL = {"exact": EXACT, "changed": Changed(), **LOSSY}
SHAPES = {
    "conv.weight": (4, 3, 3, 3),
    "conv.bias": (4,),
    "bn.running_mean": (4,),
    "bn.running_var": (4,),
    "head.weight": (2, 30),
    "scalar": (),
    "none": (0, 3),
}


def drawn(seed: int, scale: float = 1.0) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    made = {name: scale * torch.randn(shape) for name, shape in SHAPES.items()}
    made["wide"] = scale * torch.randn(5, 6, dtype=torch.float64)
    made["half"] = torch.randn(3).to(torch.float16)
    made["bn.running_var"] = made["bn.running_var"].square() * 1e-3
    return made


BASE = drawn(1)
TARGET = {name: tensor + drawn(2, 0.01)[name] for name, tensor in BASE.items()}
TARGET["bn.running_var"] = BASE["bn.running_var"] / 3
SCHEMA = {name: TensorSpec.of(tensor) for name, tensor in BASE.items()}


def through(
    coding: Coding, target: dict[str, Tensor], base: dict[str, Tensor]
) -> dict[str, Tensor]:
    data, _ = encode(coding, target, base, {})
    return apply_changes(decode(data, SCHEMA, coding, max_magnitude=None), base)


# There and back ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["exact", "changed"])
def test_exact_writes_plain_safetensors(name: str) -> None:
    data, left = encode(ALL[name], TARGET, BASE, {})
    assert not left
    found = apply_changes(decode(data, SCHEMA, ALL[name], max_magnitude=None), BASE)
    assert all(same_bits(found[n], t) for n, t in TARGET.items())
    different = {n: t for n, t in TARGET.items() if not same_bits(t, BASE[n])}
    assert set(different) == set(TARGET) - {"none"}
    whole, _ = encode(ALL[name], different, BASE, {})
    assert whole == payload.encode(different)


@pytest.mark.parametrize("name", LOSSY)
def test_sender_and_receiver_agree_and_the_error_is_small(name: str) -> None:
    coding = LOSSY[name]
    data, left = encode(coding, TARGET, BASE, {})
    changes = decode(data, SCHEMA, coding, max_magnitude=None)
    found = apply_changes(changes, BASE)
    for tensor, target in TARGET.items():
        assert found[tensor].dtype == target.dtype
        assert found[tensor].shape == target.shape
        if tensor in left:  # what is error_feedback is what the receiver lacks, to the last bit
            difference = changes[tensor].difference
            assert difference is not None
            assert torch.equal(target - BASE[tensor] - difference, left[tensor])
        else:
            assert same_bits(found[tensor], target)
    sizes = (TARGET["conv.weight"] - BASE["conv.weight"]).abs()
    largest = float(sizes.max())
    most = {"bfloat16": 2**-8 * largest, "float16": 2**-11 * largest, "int8": 0.51 / 127 * largest}
    if isinstance(coding, TopK):  # the first that is not sent; of those sent, bfloat16's rounding
        unsent = float(sizes.flatten().sort(descending=True)[0][coding.count(("", sizes.shape))])
        most["topk"] = max(unsent, 2**-8 * largest)
    if isinstance(coding, LowBit):  # half a step, and of what is beyond the last level the rest
        steps = safetensors.torch.load(data)["conv.weight/scale"].reshape(-1, 1)
        rows, lost = (each.reshape(len(steps), -1) for each in (sizes, left["conv.weight"].abs()))
        beyond = rows.amax(1, keepdim=True) - (2 ** (coding.bits - 1) - 0.5) * steps
        assert (lost <= 1.001 * torch.maximum(steps / 2, beyond)).all()
        return
    if isinstance(coding, LowRank):  # what the energy leaves, and the rounding of factors
        share = left["conv.weight"].square().sum() / sizes.square().sum()
        assert share <= (0.1 if coding.rank is None else 0.999)
        return
    assert left["conv.weight"].abs().max() <= most[name.split()[0]]


def test_tensors_with_fewer_values_than_least_are_written_as_they_are() -> None:
    coding = TopK(fraction=0.1, values="bfloat16", least=8)
    assert set(coding.parts("w", ("float32", (7,)))) == {"w"}
    assert set(coding.parts("w", ("float32", (2, 4)))) == {"w/indices", "w/values"}


@pytest.mark.parametrize("name", LOSSY)
def test_statistics_and_what_is_not_float32_or_float64_are_exact(name: str) -> None:
    for statistic in ("bn.running_mean", "bn.running_var", "half", "none"):
        assert LOSSY[name].exactly(statistic, forms(SCHEMA)[statistic])
    found = through(LOSSY[name], TARGET, BASE)
    assert same_bits(found["bn.running_var"], TARGET["bn.running_var"])
    assert (found["bn.running_var"] >= 0).all()


@pytest.mark.parametrize("name", LOSSY)
def test_error_feedback_sends_later_what_was_lost(name: str) -> None:
    """Error feedback: differences that repeat arrive in full in the long run."""
    coding, error_feedback = LOSSY[name], dict[str, Tensor]()
    total = {n: torch.zeros_like(t) for n, t in BASE.items()}
    rounds = 60
    for _ in range(rounds):
        data, error_feedback = encode(coding, TARGET, BASE, error_feedback)
        for n, change in decode(data, SCHEMA, coding, max_magnitude=None).items():
            if change.difference is not None:
                total[n] += change.difference
    for n in ("conv.weight", "head.weight", "wide"):
        wanted = rounds * (TARGET[n] - BASE[n])
        near = 0.02 if name.startswith(("bfloat16", "float16", "int8")) else 0.5
        assert (total[n] - wanted).abs().max() < near * wanted.abs().max()
        assert torch.allclose(total[n] + error_feedback[n], wanted, atol=1e-3)


@pytest.mark.parametrize("name", ALL)
def test_unchanged_tensors_are_not_sent(name: str) -> None:
    target = {**BASE, "conv.bias": BASE["conv.bias"] + 1}
    data, left = encode(ALL[name], target, BASE, {})
    arrays = payload.shapes_in(data, TensorSpecs(ALL[name]))
    assert {n for n in SCHEMA if unchanged(n) in arrays} == set(SCHEMA) - {"conv.bias"}
    assert len(data) < 1200
    changes = decode(data, SCHEMA, ALL[name], max_magnitude=None)
    assert changes["head.weight"] == Change()
    found = apply_changes(changes, BASE)
    assert all(same_bits(found[n], BASE[n]) for n in SCHEMA if n != "conv.bias")
    assert found["head.weight"].data_ptr() != BASE["head.weight"].data_ptr()
    assert set(left) <= {"conv.bias"}


def TensorSpecs(coding: Coding) -> dict[str, TensorSpec]:
    from fedstrata.protocol.codings import possible_arrays

    return {n: TensorSpec(s, d) for n, (d, s) in possible_arrays(forms(SCHEMA), coding).items()}


def test_minus_zero_is_a_change_if_written_exactly() -> None:
    base, target = {"w": torch.zeros(3)}, {"w": -torch.zeros(3)}
    data, _ = encode(EXACT, target, base, {})
    schema = {"w": TensorSpec((3,), "float32")}
    assert same_bits(
        apply_changes(decode(data, schema, EXACT, max_magnitude=None), base)["w"], target["w"]
    )


@pytest.mark.parametrize("name", LOSSY)
@pytest.mark.parametrize("size", [1e-44, 1e-30, 1e20])
def test_error_feedback_works_for_tiny_and_large_differences(name: str, size: float) -> None:
    base = {"w": torch.zeros(40)}
    target = {"w": torch.linspace(-size, size, 40)}
    data, left = encode(LOSSY[name], target, base, {})
    schema = {"w": TensorSpec((40,), "float32")}
    found = apply_changes(decode(data, schema, LOSSY[name], max_magnitude=None), base)
    error_feedback = left.get("w", torch.zeros(40))
    assert torch.allclose(found["w"] + error_feedback, target["w"], rtol=1e-5, atol=0)


def test_the_largest_are_sent_and_ties_go_to_the_first() -> None:
    coding = TopK(fraction=0.4, values="float32", least=0)
    target = {"w": torch.tensor([1.0, -3.0, 3.0, 2.0, 3.0])}
    found = decode(
        encode(coding, target, {"w": torch.zeros(5)}, {})[0],
        {"w": TensorSpec((5,), "float32")},
        coding,
        max_magnitude=None,
    )["w"].difference
    assert found is not None
    assert found.tolist() == [0, -3, 3, 0, 0]


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("bfloat16", 2.0),
        ("float16", 2.0),
        ("int8", 1.0),
        ("lowbit 2", 0.266),
        ("topk", 0.1 * (2 + 5.4 / 8)),
    ],
)
def test_bytes_a_value(name: str, most: float) -> None:
    base, target = {"w": torch.zeros(512, 256)}, {"w": torch.randn(512, 256)}
    data, _ = encode(LOSSY[name], target, base, {})
    assert len(data) < most * 512 * 256 + 250


DTYPES = st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64])


@given(
    st.sampled_from(sorted(ALL)),
    st.dictionaries(
        st.text("abc._é", min_size=1, max_size=6),
        st.tuples(
            DTYPES, st.lists(st.integers(0, 4), max_size=3), st.sampled_from([0.0, 1e-3, 9.0])
        ),
        max_size=4,
    ),
)
def test_any_tensors_come_back(name: str, drawn: dict[str, Any]) -> None:
    base = {n: torch.randn(shape).to(dtype) for n, (dtype, shape, _) in drawn.items()}
    target = {n: (t + drawn[n][2] * torch.randn(t.shape)).to(t.dtype) for n, t in base.items()}
    schema = {n: TensorSpec.of(t) for n, t in base.items()}
    data, left = encode(ALL[name], target, base, {})
    found = apply_changes(decode(data, schema, ALL[name], max_magnitude=None), base)
    assert {n: TensorSpec.of(t) for n, t in found.items()} == schema
    for n in base:
        assert torch.allclose(found[n] + left.get(n, 0), target[n], rtol=1e-3, atol=1e-3), n


# The door ---------------------------------------------------------------------------------------

W = {"w": TensorSpec((2, 8), "float32")}


def tampered(coding: Coding, **arrays: Tensor) -> bytes:
    """Return a payload of W with these arrays instead of its own; ``w_scale`` stands for w/scale."""
    data, _ = encode(coding, {"w": torch.randn(2, 8)}, {"w": torch.zeros(2, 8)}, {})
    made = {
        name: TensorSpec(shape, dtype)
        for name, (dtype, shape) in expected_arrays(forms(W), coding, {}).items()
    }
    own = payload.decode(data, made, max_magnitude=None)
    return payload.encode(own | {name.replace("_", "/"): t for name, t in arrays.items()})


def some(count: int) -> Tensor:
    return torch.from_numpy(pack(np.arange(count, dtype=np.int64), 16))


TOP = TopK(fraction=0.25, values="float32", least=0)  # 4 of 16
INT8, EACH, HALF = LOSSY["int8"], LOSSY["int8 per channel"], LOSSY["float16"]
TWO = LOSSY["lowbit 2"]
MARK, NAN, INF = torch.empty(0, dtype=torch.uint8), math.nan, math.inf


def levels(*shape: int, value: int = 127) -> Tensor:
    return torch.full(shape, value, dtype=torch.int8)


def number(value: float) -> Tensor:
    return torch.tensor(value)


LENGTH = "truncated or foreign"
REFUSED: dict[str, tuple[Coding, dict[str, Tensor], str]] = {
    "NaN scale": (INT8, {"w_scale": number(NAN)}, "'w/scale' has values that are not finite"),
    "infinite scale": (INT8, {"w_scale": number(INF)}, "'w/scale' has values that are not finite"),
    "negative scale": (INT8, {"w_scale": number(-1.0)}, "'w' has a scale below 0"),
    "one of two": (EACH, {"w_scale": torch.tensor([1.0, -1.0])}, "'w' has a scale below 0"),
    "a large scale": (INT8, {"w_scale": number(1e9)}, "'w/scale' has a magnitude of 1e"),
    "large": (
        INT8,
        {"w": levels(2, 8), "w_scale": number(1e7)},
        r"'w \(the difference\)' has a magnitude of 1.27e",
    ),
    "scales too many": (INT8, {"w_scale": torch.ones(2)}, LENGTH),
    "a scale in an axis": (INT8, {"w_scale": torch.ones(1)}, r"'w/scale' has the shape \[1\], not"),
    "float16, negative scale": (HALF, {"w_scale": number(-1.0)}, "'w' has a scale below 0"),
    "float16, NaN scale": (HALF, {"w_scale": number(NAN)}, "'w/scale' has values"),
    "beyond its scale": (HALF, {"w": torch.full((2, 8), 1.5).half()}, "'w' has values beyond"),
    "-128": (INT8, {"w": levels(2, 8, value=-128)}, "'w' has the value -128"),
    "NaN": (LOSSY["bfloat16"], {"w": torch.full((2, 8), NAN).bfloat16()}, "'w' has values that"),
    "another dtype": (LOSSY["bfloat16"], {"w": torch.zeros(2, 8).half()}, "'F16', not 'BF16'"),
    "not coded": (INT8, {"w": torch.zeros(2, 8)}, LENGTH),
    "another shape": (INT8, {"w": levels(8, 2)}, r"'w' has the shape \[8, 2\], not \[2, 8\]"),
    "larger": (INT8, {"w": levels(4, 8)}, LENGTH),
    "unchanged and changed": (
        INT8,
        {"w_unchanged": MARK},
        "a header of .* bytes|not in the schema",
    ),
    "another tensor": (INT8, {"head": torch.zeros(0)}, "'head' is not in the schema"),
    "packed, too few": (TWO, {"w_packed": MARK.new_zeros(3)}, LENGTH),
    "packed, NaN scale": (TWO, {"w_scale": torch.tensor([1.0, NAN])}, "'w/scale' has values"),
    "packed, negative scale": (TWO, {"w_scale": torch.tensor([1.0, -1.0])}, "a scale below 0"),
    "k too small": (TOP, {"w_indices": some(3), "w_values": torch.ones(3)}, LENGTH),
    "k too large": (TOP, {"w_indices": some(5), "w_values": torch.ones(5)}, LENGTH),
    "more indices, fewer values": (
        TOP,
        {"w_indices": torch.zeros(6, dtype=torch.uint8), "w_values": torch.ones(3)},
        r"'w/indices' has the shape \[6\], not \[2\]",
    ),
    "no indices": (TOP, {"w_indices": MARK.new_zeros(2)}, "wrong indices: 0 numbers, not 4"),
    "an index twice": (TOP, {"w_indices": MARK.new_tensor([0, 0b1111])}, "do not ascend"),
    "values of another dtype": (TOP, {"w_values": torch.ones(4).int()}, "'w/values' has the dtype"),
    "infinite": (TOP, {"w_values": torch.tensor([1.0, INF, 0, 0])}, "'w/values' has values that"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_by_name(case: str) -> None:
    coding, arrays, reason = REFUSED[case]
    data = tampered(coding, **arrays)
    with pytest.raises(PayloadError, match=reason) as caught:
        decode(data, W, coding, max_magnitude=2.0**24)
    assert re.fullmatch(r"[ -~]{1,200}", str(caught.value))


def test_a_difference_that_overflows_is_refused_even_without_a_bound() -> None:
    data = tampered(INT8, w=levels(2, 8), w_scale=number(1e38))
    with pytest.raises(
        PayloadError, match=r"'w \(the difference\)' has values that are not finite"
    ):
        decode(data, W, INT8, max_magnitude=None)


def test_bits_behind_the_last_value_are_refused() -> None:
    schema, coding = {"w": TensorSpec((3,), "float32")}, LowBit(bits=2, per_channel=False)
    for packed, fine in ((0b00111111, True), (0b01111111, False)):
        arrays = {"w/packed": torch.tensor([packed]).byte(), "w/scale": torch.tensor(2.0)}
        data = payload.encode(arrays)
        if fine:
            found = decode(data, schema, coding, max_magnitude=None)["w"].difference
            assert found is not None
            assert found.tolist() == [3.0, 3.0, 3.0]
            continue
        with pytest.raises(PayloadError, match="'w' has bits set behind its last value"):
            decode(data, schema, coding, max_magnitude=None)


@pytest.mark.parametrize(("bits", "kept"), [(1, 0.636), (2, 0.881), (4, 0.988)])
def test_lowbit_is_near_the_best_for_normal_values(bits: int, kept: float) -> None:
    """The best evenly spaced levels for a normal distribution: Max 1960, table II."""
    torch.manual_seed(3)
    base, target = {"w": torch.zeros(20_000)}, {"w": 1e-3 * torch.randn(20_000)}
    _, left = encode(LowBit(bits=bits, per_channel=False), target, base, {})
    share = 1 - left["w"].square().sum() / target["w"].square().sum()
    assert share == pytest.approx(kept, abs=0.01)


def test_the_mark_of_an_unchanged_tensor_is_empty() -> None:
    data = payload.encode({"w/unchanged": torch.zeros(3, dtype=torch.uint8)})
    with pytest.raises(PayloadError, match="3 bytes of tensors, the schema has 0"):
        decode(data, W, INT8, max_magnitude=None)


def test_an_index_out_of_range_is_refused() -> None:
    schema = {"w": TensorSpec((13,), "float32")}
    coding = TopK(fraction=0.25, values="float32", least=0)  # 4 of 13
    packed = torch.from_numpy(pack(np.array([0, 1, 2, 13]), 14))
    data = payload.encode({"w/indices": packed, "w/values": torch.ones(4)})
    with pytest.raises(PayloadError, match="13 is not below 13"):
        decode(data, schema, coding, max_magnitude=None)


def test_an_unchanged_tensor_needs_no_more_than_its_name() -> None:
    data = payload.encode({"w/unchanged": torch.empty(0, dtype=torch.uint8)})
    for coding in ALL.values():
        assert decode(data, W, coding, max_magnitude=None) == {"w": Change()}


@pytest.mark.parametrize("name", ALL)
def test_a_payload_cannot_claim_memory(name: str) -> None:
    entry = {"dtype": "I8", "shape": [2**40], "data_offsets": [0, 2**40]}
    liars = [json.dumps({part: entry}).encode() for part in ("w", "w/values", "w/scale", "x")]
    payloads = [struct.pack("<Q", len(raw)) + raw + bytes(16) for raw in liars]
    payloads += [
        struct.pack("<Q", 2**60) + liars[0],
        b"",
        bytes(7),
        struct.pack("<Q", 0) + bytes(10**6),
    ]
    tracemalloc.start()
    for data in payloads:
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        with pytest.raises(PayloadError):
            decode(data, W, ALL[name], max_magnitude=None)
        assert tracemalloc.get_traced_memory()[1] - before < 200_000
    tracemalloc.stop()


def read_or_refused(data: bytes, coding: Coding) -> None:
    """Either PayloadError, or the schema's tensors, finite, and of the payload's own size."""
    try:
        changes = decode(data, SCHEMA, coding, max_magnitude=2.0**24)
    except PayloadError:
        return
    found = apply_changes(changes, BASE)
    assert {n: TensorSpec.of(t) for n, t in found.items()} == SCHEMA
    for change in changes.values():
        for tensor in (change.value, change.difference):
            assert tensor is None or (
                tensor.isfinite().all() and not (tensor.abs() > 2.0**24).any()
            )


@pytest.mark.parametrize("name", ALL)
@settings(max_examples=150)
@given(data=st.data())
def test_flipped_bits_and_other_bytes(name: str, data: st.DataObject) -> None:
    whole = bytearray(encode(ALL[name], TARGET, BASE, {})[0])
    for place in data.draw(st.lists(st.integers(0, 8 * len(whole) - 1), min_size=1, max_size=5)):
        whole[place // 8] ^= 1 << place % 8
    read_or_refused(bytes(whole), ALL[name])
    cut, more = data.draw(st.integers(0, len(whole))), data.draw(st.binary(max_size=40))
    read_or_refused(bytes(whole[:cut]) + more, ALL[name])


@given(st.sampled_from(sorted(ALL)), st.binary(max_size=400))
def test_any_bytes(name: str, data: bytes) -> None:
    read_or_refused(data, ALL[name])


@pytest.mark.parametrize("name", ALL)
def test_every_truncation_is_refused(name: str) -> None:
    whole, _ = encode(ALL[name], TARGET, BASE, {})
    for length in range(0, len(whole), 3):
        with pytest.raises(PayloadError):
            decode(whole[:length], SCHEMA, ALL[name], max_magnitude=None)
