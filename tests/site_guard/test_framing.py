"""Records that go over the pipe arrive as they were, and nothing else is taken for records."""

from __future__ import annotations

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from site_guard.framing import pack_records, unpack_records

NAMES = st.text("abc.", min_size=1, max_size=4)
ARRAYS = st.builds(
    lambda data, shape: Array("float32", shape, "safetensors", data),
    st.binary(max_size=40),
    st.tuples(st.integers(0, 9)),
)
RECORDS = st.one_of(
    st.dictionaries(NAMES, ARRAYS, max_size=3).map(ArrayRecord),
    st.dictionaries(NAMES, st.one_of(st.integers(-9, 9), st.text("xyz"), st.binary())).map(
        ConfigRecord
    ),
    st.dictionaries(NAMES, st.floats(allow_nan=False)).map(MetricRecord),
)


def through(parts: list[bytes]) -> RecordDict:
    left = iter(parts)
    records = unpack_records(lambda: next(left))
    assert not list(left)
    return records


@given(st.dictionaries(NAMES, RECORDS, max_size=3))
def test_records_arrive_as_they_were(records: dict[str, ArrayRecord]) -> None:
    sent = RecordDict(records)
    assert through(pack_records(sent)) == sent


def test_an_arrays_bytes_are_not_copied() -> None:
    array = Array(np.ones(1000))
    assert pack_records(RecordDict({"layers": ArrayRecord({"common": array})}))[1] is array.data


@given(st.lists(st.binary(max_size=60), max_size=4))
def test_any_bytes_are_records_or_an_error(parts: list[bytes]) -> None:
    left = iter(parts)
    try:
        records = unpack_records(lambda: next(left))
    except Exception:
        return
    assert isinstance(records, RecordDict)


def test_records_that_end_early_are_an_error() -> None:
    parts = pack_records(
        RecordDict({"layers": ArrayRecord({"a": Array(np.ones(3)), "b": Array(np.ones(3))})})
    )
    left = iter(parts[:-1])
    with pytest.raises(StopIteration):
        unpack_records(lambda: next(left))
