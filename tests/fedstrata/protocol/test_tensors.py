"""Hashes and specs of tensors are the same on every machine."""

from __future__ import annotations

import pytest
import torch

from fedstrata.protocol.tensors import TensorSpec, content_hash, uninitialized

TENSORS = {"b": torch.arange(3, dtype=torch.int64), "a": torch.tensor([[1.5, -0.0]])}


def test_the_hash_of_these_tensors_is_known() -> None:
    """Whoever changes how it is made loses every checkpoint that sites have."""
    assert content_hash(TENSORS) == (
        "ca6938bea6219dae9a9c340de2817dc364c133fa260ca6abb22bf96591190ee7"
    )


def test_the_hash_does_not_depend_on_order_or_memory() -> None:
    strided = {"a": torch.tensor([[1.5], [-0.0]]).T, "b": TENSORS["b"]}
    assert content_hash(strided) == content_hash(TENSORS)


@pytest.mark.parametrize(
    "other",
    [
        {"a": torch.tensor([[1.5, 0.0]])},
        {"a": torch.tensor([1.5, -0.0])},
        {"a": torch.tensor([[1.5, -0.0]], dtype=torch.float64)},
        {"c": torch.zeros(0)},
    ],
)
def test_names_shapes_dtypes_and_every_bit_count(other: dict[str, torch.Tensor]) -> None:
    assert content_hash({**TENSORS, **other}) != content_hash(TENSORS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
@pytest.mark.parametrize("shape", [(), (0,), (2, 3)])
def test_an_uninitialized_tensor_has_its_shape_and_can_be_written(
    dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    tensor = uninitialized(shape, dtype)
    assert (tensor.dtype, tuple(tensor.shape)) == (dtype, shape)
    assert torch.equal(tensor.fill_(1), torch.ones(shape, dtype=dtype))


def test_a_spec_knows_sizes_and_what_can_be_averaged() -> None:
    spec = TensorSpec.of(torch.zeros(2, 3, dtype=torch.bfloat16))
    assert (spec.shape, spec.dtype, spec.numel, spec.nbytes) == ((2, 3), "bfloat16", 6, 12)
    assert spec.floating
    assert not TensorSpec((2,), "int64").floating
