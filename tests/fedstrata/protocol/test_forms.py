"""A tensor's form: read as it is described, and as large as dtype and shape say."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedstrata.protocol.forms import describe_form, fingerprint, read_form, size_of


@given(st.sampled_from(["float32", "int8"]), st.lists(st.integers(0, 2**31), max_size=8))
def test_a_form_is_read_as_it_is_described(dtype: str, shape: list[int]) -> None:
    assert read_form(describe_form((dtype, tuple(shape)))) == (dtype, tuple(shape))


@pytest.mark.parametrize(
    "text", ["", "float32", "float32[", "float32[1,]", "float32[-1]", "x" * 99]
)
def test_any_other_text_is_no_form(text: str) -> None:
    with pytest.raises(ValueError, match="no dtype with a shape"):
        read_form(text)


@pytest.mark.parametrize(
    ("form", "size"),
    [(("float32", (2, 3)), 24), (("bfloat16", (5,)), 10), (("uint8", (0,)), 0), (("int64", ()), 8)],
)
def test_the_size_of_an_array_follows_from_dtype_and_shape(form: Any, size: int) -> None:
    assert size_of(form) == size


def test_the_fingerprint_is_of_names_dtypes_and_shapes_in_any_order() -> None:
    one = {"a": ("float32", (2,)), "b": ("int8", ())}
    assert fingerprint(one) == fingerprint(dict(reversed(one.items())))
    assert fingerprint(one) != fingerprint({**one, "a": ("float32", (3,))})
