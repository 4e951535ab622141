"""Differences as factors: the least rank that reaches the energy, never 0, never more bytes."""

from __future__ import annotations

import re

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedstrata.protocol import payload
from fedstrata.protocol.codec import decode, encode
from fedstrata.protocol.codings import Codings, LowRank, possible_arrays, read_codings
from fedstrata.protocol.forms import size_of
from fedstrata.protocol.limits import Refused
from fedstrata.protocol.payload import PayloadError
from fedstrata.protocol.tensors import TensorSpec
from site_guard.layers import checked


def coding(energy: float, rank: int | None = None, least: int = 0) -> LowRank:
    return LowRank(energy_start=energy, energy_end=energy, rank=rank, least=least)


def matrix(rows: int, columns: int, fall: float = 0.5, seed: int = 0) -> Tensor:
    """Return a matrix whose singular values are the powers of ``fall``."""
    rng = np.random.default_rng(seed)
    few = min(rows, columns)
    left, right = (np.linalg.qr(rng.standard_normal((n, few)))[0] for n in (rows, columns))
    return torch.from_numpy((left * fall ** np.arange(few)) @ right.T).float()


def sent(by: LowRank, tensor: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Return the arrays of a payload, and what a receiver reads from it."""
    data, lost = encode(by, {"w": tensor}, {"w": torch.zeros_like(tensor)}, {})
    change = decode(data, {"w": TensorSpec.of(tensor)}, by, max_magnitude=None)["w"]
    read = change.value if change.difference is None else change.difference
    assert read is not None
    if change.difference is not None:
        assert torch.equal(read + lost["w"], tensor) or torch.allclose(read + lost["w"], tensor)
    return safetensors.torch.load(data), read


def energy(tensor: Tensor, rank: int) -> float:
    values = np.linalg.svd(tensor.reshape(len(tensor), -1).double().numpy(), compute_uv=False)
    return float((values[:rank] ** 2).sum() / (values**2).sum())


@pytest.mark.parametrize("share", [0.5, 0.95, 0.98, 0.9999])
@pytest.mark.parametrize("shape", [(20, 50), (50, 20), (30, 30)])
def test_the_rank_is_the_least_that_reaches_the_energy(
    share: float, shape: tuple[int, int]
) -> None:
    tensor = matrix(*shape, fall=0.8)
    arrays, read = sent(coding(share), tensor)
    rank = arrays["w/right"].shape[0]
    assert arrays["w/left"].shape == (shape[0], rank)
    assert energy(tensor, rank) >= share > energy(tensor, rank - 1)
    kept = 1 - (tensor - read).square().sum() / tensor.square().sum()
    assert kept == pytest.approx(energy(tensor, rank), abs=1e-5)


@pytest.mark.parametrize("shape", [(32, 32, 1, 1), (8, 24), (24, 8)])
def test_where_only_all_values_reach_the_energy_nothing_becomes_zero(
    shape: tuple[int, ...],
) -> None:
    """Public code keeps rank 0 there: 1x1 convolutions became zero."""
    flat = matrix(shape[0], int(np.prod(shape[1:])), fall=1.0)
    arrays, read = sent(coding(1.0), flat.reshape(shape))
    assert torch.allclose(read, flat.reshape(shape), atol=1e-4)
    whole = flat.numel() * 4
    assert sum(t.numel() * t.element_size() for t in arrays.values()) <= whole


def test_a_convolution_is_a_matrix_of_its_filters() -> None:
    tensor = matrix(16, 8 * 9).reshape(16, 8, 3, 3)
    arrays, read = sent(coding(0.95), tensor)
    assert arrays["w/left"].shape[0] == 16
    assert arrays["w/right"].shape[1] == 8 * 9
    assert read.shape == tensor.shape


def test_where_factors_are_no_smaller_the_difference_itself_travels() -> None:
    tensor = matrix(64, 64, fall=1.0)
    arrays, read = sent(coding(1.0), tensor)
    assert set(arrays) == {"w"}
    assert torch.equal(read, tensor)
    # A highest rank is kept to, whatever the energy is.
    arrays, _ = sent(coding(1.0, rank=3), tensor)
    assert arrays["w/right"].shape[0] == 3


def test_vectors_and_small_tensors_travel_exactly() -> None:
    for shape in ((40,), (), (4, 5)):
        tensor = torch.randn(shape)
        arrays, read = sent(coding(0.5, least=21), tensor)
        assert set(arrays) == {"w"}
        assert torch.equal(read, tensor)


def test_every_machine_reads_the_same_bits() -> None:
    """The sums are those of whole numbers, however a machine adds them up."""
    arrays, read = sent(coding(0.999), matrix(40, 300, fall=0.95))
    whole = arrays["w/left"].long() @ arrays["w/right"].long()
    assert torch.equal(read, (whole.double() * arrays["w/scale"].double()).float())


def test_the_energy_rises_from_the_first_round_to_the_last() -> None:
    made = LowRank(energy_start=0.95, energy_end=0.98, rank=None, least=0)
    codings = Codings({"common": made}, {"task": made}, rounds=4)
    found = [codings.from_site("common", number) for number in (0, 1, 2, 4, 9)]
    energies = [each.energy_start for each in found if isinstance(each, LowRank)]
    assert energies == pytest.approx([0.95, 0.95, 0.96, 0.98, 0.98])
    assert codings.to_site("task", 4) == codings.from_site("common", 4)
    assert codings.from_site("common") == made
    options = {"common": made.to_dict()}
    assert read_codings(options, {}, 4).from_site("common", 2) == found[2]


@pytest.mark.parametrize("rank", [None, 2, 1000])
def test_no_payload_is_larger_than_is_known_beforehand(rank: int | None) -> None:
    by, form = coding(1.0, rank), ("float32", (64, 48))
    most = sum(map(size_of, by.parts("w", form).values()))
    arrays, _ = sent(by, matrix(64, 48, fall=1.0))
    assert sum(t.numel() * t.element_size() for t in arrays.values()) <= most <= 64 * 48 * 4
    assert by.parts("w", form).keys() <= possible_arrays({"w": form}, by).keys()


# -- the door ----------------------------------------------------------------------------------------

SHAPE = (12, 10)
BY, AT_MOST_2 = coding(0.9), coding(0.9, rank=2)
W = {"w": TensorSpec(SHAPE, "float32")}


def factors(rank: int, other: int | None = None, **more: Tensor) -> dict[str, Tensor]:
    ones = torch.ones(SHAPE[0], rank, dtype=torch.int16)
    right = torch.ones(rank if other is None else other, SHAPE[1], dtype=torch.int16)
    made = {"w/left": ones, "w/right": right, "w/scale": torch.tensor(0.5)}
    return made | {name.replace("_", "/"): tensor for name, tensor in more.items()}


REFUSED: dict[str, tuple[LowRank, dict[str, Tensor], str]] = {
    "rank 0": (BY, factors(0), "truncated or foreign"),
    "too high a rank": (BY, factors(11), "truncated or foreign"),
    "above the highest": (AT_MOST_2, factors(3), "truncated or foreign"),
    "ranks that differ": (BY, factors(2, 3), "truncated or foreign"),
    "turned over": (
        BY,
        factors(2, w_left=torch.ones(2, 12).short(), w_right=torch.ones(10, 2).short()),
        "truncated or foreign",
    ),
    "no factors": (AT_MOST_2, {"w": torch.ones(SHAPE)}, "truncated or foreign|a header of"),
    "both": (BY, factors(2, w=torch.ones(SHAPE)), "a header of|truncated or foreign"),
    "one factor": (
        BY,
        {n: t for n, t in factors(2).items() if n != "w/left"},
        "truncated or foreign",
    ),
    "another dtype": (BY, factors(2, w_left=torch.ones(12, 2).half()), "'w/left' has the dtype"),
    "-32768": (BY, factors(2, w_left=torch.full((12, 2), -32768).short()), "value -32768"),
    "a negative scale": (BY, factors(2, w_scale=torch.tensor(-1.0)), "'w' has a scale below 0"),
    "a NaN": (BY, factors(2, w_scale=torch.tensor(float("nan"))), "'w/scale' has values"),
    "too large": (BY, factors(2, w_scale=torch.tensor(1e7)), r"'w \(the difference\)' has a mag"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_by_name(case: str) -> None:
    by, arrays, reason = REFUSED[case]
    with pytest.raises(PayloadError, match=reason) as caught:
        decode(payload.encode(arrays), W, by, max_magnitude=2.0**24)
    assert re.fullmatch(r"[ -~]{1,200}", str(caught.value))


@pytest.mark.parametrize("rank", [1, 2, 9])
def test_a_guard_lets_out_any_rank_within_the_bound(rank: int) -> None:
    schema = {"w": ("float32", SHAPE)}
    data = payload.encode(factors(rank))
    assert decode(checked("common", data, schema, BY), W, BY, max_magnitude=None)
    whole = payload.encode({"w": torch.ones(SHAPE)})
    assert checked("common", whole, schema, BY) == whole
    with pytest.raises(Refused, match="the app sends"):
        checked("common", payload.encode(factors(rank + 10)), schema, BY)
    with pytest.raises(Refused, match="the app sends"):
        checked("common", payload.encode(factors(rank, rank + 1)), schema, BY)


@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from([None, 1, 4]), st.floats(0.01, 1))
def test_any_matrix_comes_back_with_what_was_lost(
    rows: int, columns: int, rank: int | None, share: float
) -> None:
    torch.manual_seed(rows * 10 + columns)
    tensor = torch.randn(rows, columns)
    by = coding(share, rank)
    data, lost = encode(by, {"w": tensor}, {"w": torch.zeros_like(tensor)}, {})
    change = decode(data, {"w": TensorSpec.of(tensor)}, by, max_magnitude=None)["w"]
    read = change.apply(torch.zeros_like(tensor))
    assert torch.allclose(read + lost.get("w", 0), tensor, atol=1e-6)


@given(
    st.dictionaries(
        st.sampled_from(["w", "w/left", "w/right", "w/scale", "w/unchanged"]),
        st.tuples(
            st.sampled_from([torch.int16, torch.float32, torch.uint8]),
            st.lists(st.sampled_from([0, 1, 2, 10, 12]), max_size=3),
        ),
    ),
    st.sampled_from([BY, AT_MOST_2]),
)
def test_other_arrays_are_read_by_the_schema_or_refused(
    drawn: dict[str, tuple[torch.dtype, list[int]]], by: LowRank
) -> None:
    data = payload.encode({n: torch.ones(shape).to(dtype) for n, (dtype, shape) in drawn.items()})
    try:
        change = decode(data, W, by, max_magnitude=10.0)["w"]
    except PayloadError:
        return
    assert change.apply(torch.zeros(SHAPE)).shape == SHAPE
