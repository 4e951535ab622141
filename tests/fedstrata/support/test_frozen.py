"""Configuration as the key of a cache: equal exactly where it says the same."""

from __future__ import annotations

import pytest

from fedstrata.support.frozen import frozen


def test_equal_configuration_is_equal_and_has_one_hash() -> None:
    one = {"name": "faces", "tasks": ["gender", "pose"], "partition": {"by": "label", "alpha": 0.5}}
    other = {
        "partition": {"alpha": 0.5, "by": "label"},
        "tasks": ("gender", "pose"),
        "name": "faces",
    }
    assert frozen(one) == frozen(other)
    assert hash(frozen(one)) == hash(frozen(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1}, {"a": 2}),
        ({"a": 1}, {"b": 1}),
        ({"a": 1}, {"a": 1.0}),
        ({"a": 1}, {"a": True}),
        ({"a": None}, {}),
        (["a", "b"], ["b", "a"]),
        ({"a": {"b": 1}}, {"a": {"b": 2}}),
        ({}, []),
        ({"a": 1}, [("a", 1)]),
    ],
)
def test_other_configuration_is_another_key(one: object, other: object) -> None:
    assert frozen(one) != frozen(other)


def test_values_that_can_change_are_rejected() -> None:
    with pytest.raises(TypeError, match="set is no plain configuration"):
        frozen({"a": {1, 2}})
