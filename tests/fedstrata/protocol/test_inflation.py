"""The size of a message is known before it is put together, however it repeats its chunks."""

from __future__ import annotations

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, RecordDict
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    no_object_id_recompute,
)

from fedstrata.protocol.inflation import inflated_size
from tests.helpers.flower_objects import array_of_chunks, is_array


def objects() -> dict[str, bytes]:
    """Return what a record with one array of 8 KB travels as."""
    records = RecordDict({"layers": ArrayRecord({"common": Array(np.ones(1000))})})
    with no_object_id_recompute():
        return {i: each.deflate() for i, each in get_all_nested_objects(records).items()}


def test_an_array_that_names_its_chunk_often_counts_as_often() -> None:
    once = inflated_size(objects())
    assert 8000 <= once < 9000
    for times in (0, 1, 50):
        changed = {
            i: array_of_chunks(part, [0] * times) if is_array(part) else part
            for i, part in objects().items()
        }
        assert inflated_size(changed) == times * once


def test_an_array_of_arrays_is_refused() -> None:
    parts = objects()
    (array,) = (i for i, part in parts.items() if is_array(part))
    parts[array] = array_of_chunks(parts[array], [0], array)
    with pytest.raises(TypeError, match="an array is not made of chunks"):
        inflated_size(parts)


def test_what_is_no_object_of_flower_is_refused() -> None:
    with pytest.raises((TypeError, ValueError, LookupError)):
        inflated_size({"x": b"anything"})
