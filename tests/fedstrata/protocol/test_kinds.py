"""Layers are stored in a message as safetensors bytes, and only so."""

from __future__ import annotations

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from fedstrata.protocol.kinds import group_of, payload_array, payloads_of
from fedstrata.protocol.limits import Refused


@pytest.mark.parametrize("key", ["task", "task/gender", "task/0", "task/a/b"])
def test_the_group_is_what_comes_before_the_slash(key: str) -> None:
    assert group_of(key) == "task"


def test_bytes_come_out_as_they_went_in() -> None:
    content = RecordDict({"layers": ArrayRecord({"common": payload_array(b"some bytes")})})
    assert payloads_of(content) == {"common": b"some bytes"}
    assert payloads_of(RecordDict()) == {}


def test_another_format_is_refused() -> None:
    content = RecordDict({"layers": ArrayRecord({"common": Array(np.ones(2))})})
    with pytest.raises(Refused, match=r"'common' is coded as 'numpy\.ndarray', not 'safetensors'"):
        payloads_of(content)
    with pytest.raises(Refused, match="not an array record"):
        payloads_of(RecordDict({"layers": ConfigRecord({})}))
