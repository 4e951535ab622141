"""The codings that a configuration names: wrong ones are refused, and forms are read as written."""

from __future__ import annotations

from typing import Any

import pytest

from fedstrata.protocol.codings import CODINGS, EXACT, BFloat16, possible_arrays, read_codings
from fedstrata.support.errors import UserError

LOWRANK = {"name": "lowrank", "energy_start": 0.9, "energy_end": 1, "rank": None, "least": 0}


@pytest.mark.parametrize(
    ("up", "reason"),
    [
        ({"name": "int9"}, "strategy.coding.common.name 'int9' does not exist.*nearest: 'int8'"),
        ("int8", "expected a coding"),
        ({"name": "int8"}, "strategy.coding.common.per_channel"),
        ({"name": "exact", "fraction": 1}, "has no option 'fraction'"),
        ({"name": "changed"}, "write strategy.coding.common=exact"),
        ({"name": "lowbit", "bits": 3, "per_channel": True}, "bits must be 1, 2 or 4"),
        ({"name": "topk", "fraction": 0, "values": "float32", "least": 0}, "greater than 0"),
        ({"name": "topk", "fraction": 1.5, "values": "float32", "least": 0}, "at most 1"),
        ({"name": "topk", "fraction": 0.5, "values": "int8", "least": 0}, "float32 or bfloat16"),
        ({"name": "topk", "fraction": 0.5, "values": "float32", "least": -1}, "0 or greater"),
        (
            {**LOWRANK, "energy_start": 0},
            "energy_start must be greater than 0 and at most 1, got 0",
        ),
        (
            {**LOWRANK, "energy_end": 1.1},
            "energy_end must be greater than 0 and at most 1, got 1.1",
        ),
        ({**LOWRANK, "rank": 0}, "rank must be at least 1, or null: got 0"),
        ({**LOWRANK, "least": -1}, "least must be 0 or greater"),
    ],
)
def test_a_wrong_coding_is_refused_with_its_key(up: Any, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        read_codings({"common": up}, {})


def test_a_group_that_is_not_named_travels_exactly() -> None:
    codings = read_codings({"common": {"name": "bfloat16"}}, {})
    assert codings.from_site("common") == BFloat16()
    assert codings.to_site("common") == codings.from_site("task") == EXACT
    assert codings.describe("common") == "up bfloat16, down exact"


def test_every_coding_has_its_file() -> None:
    from server_app.compose import CONF

    assert {path.stem for path in (CONF / "coding").glob("*.yaml")} == set(CODINGS)


def test_two_tensors_never_share_the_name_of_a_part() -> None:
    schema = {"w": ("float32", (2,)), "w/unchanged": ("float32", (2,))}
    with pytest.raises(TypeError, match="w/unchanged is the name of parts of two tensors"):
        possible_arrays(schema, EXACT)
