"""Options are read strictly: nothing unknown, nothing missing, nothing of another type."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from fedstrata.support import options
from fedstrata.support.errors import UserError
from fedstrata.support.options import read_options


@dataclass(frozen=True)
class Inner:
    rate: float
    names: tuple[str, ...]


@dataclass(frozen=True)
class Outer:
    size: int
    on: bool
    inner: Inner
    maybe: list[int] | None
    table: dict[str, str] | None


GOOD = {
    "name": "anything",
    "size": 3,
    "on": True,
    "inner": {"rate": 1, "names": ["a", "b"]},
    "maybe": [1, 2],
    "table": {"a": "b"},
}


def test_lists_become_tuples_and_parts_dataclasses() -> None:
    read = read_options(Outer, GOOD, "data")
    assert read == Outer(3, True, Inner(1.0, ("a", "b")), (1, 2), {"a": "b"})
    assert isinstance(read.inner, Inner)
    assert read_options(Outer, {**GOOD, "maybe": None, "table": None}, "data").maybe is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": "many"}, r"^data\.size: Value 'many'"),
        ({"size": 2.5}, r"^data\.size"),
        ({"size": None}, r"^data\.size"),
        ({"size": {"a": 1}}, r"^data\.size"),
        ({"size": object()}, r"^data"),
        ({"size": "???"}, r"^data\.size: .* is not resolved"),
        ({"on": "perhaps"}, r"^data\.on"),
        ({"inner": 3}, r"^data\.inner"),
        ({"inner": None}, r"^data\.inner"),
        ({"inner": {"rate": 1}}, r"^missing: data\.inner\.names$"),
        ({"inner": {"rate": 1, "names": "a"}}, r"^data\.inner\.names"),
        ({"inner": {"rates": 1}}, r"^data\.inner has no option 'rates'; there is 'rate', 'names'$"),
        ({"sizes": 1}, r"^data has no option 'sizes'; there is 'size'$"),
        ({"maybe": ["x"]}, r"^data\.maybe\[0\]"),
        ({"table": {"a": ["b"]}}, r"^data\.table\.a: one plain value"),
        ({"table": ["b"]}, r"^data"),
        ({"maybe": [[1]]}, r"^data\.maybe\.0: one plain value"),
        ({"inner": {"rate": 1, "names": [{"a": 1}]}}, r"^data\.inner\.names\.0: one plain value"),
        ({"table": {"a": "${oc.env:HOME}"}}, r"^data\.table\.a: .* is not resolved here"),
        ({"inner": {"rate": 1, "names": ["${size}"]}}, r"^data\.inner\.names\[0\]: .*resolved"),
    ],
)
def test_mistakes_name_the_option(changes, message) -> None:
    with pytest.raises(UserError, match=message):
        read_options(Outer, {**GOOD, **changes}, "data")


@pytest.mark.parametrize("option", [key for key in GOOD if key != "name"])
def test_every_option_must_be_given(option) -> None:
    with pytest.raises(UserError, match=rf"^missing: data\.{option}"):
        read_options(Outer, {k: v for k, v in GOOD.items() if k != option}, "data")


def test_equal_options_are_read_once_and_others_are_never_taken_for_them() -> None:
    read = read_options(Outer, GOOD, "data")
    assert read_options(Outer, dict(GOOD), "data") is read
    assert read_options(Outer, {**GOOD, "on": 0}, "data").on is False
    with pytest.raises(UserError, match=r"^data\.size"):
        read_options(Outer, {**GOOD, "size": "3."}, "data")
    for size in range(2 * options.MOST_KEPT):
        assert read_options(Outer, {**GOOD, "size": size}, "data").size == size
    assert len(options._READ) <= options.MOST_KEPT
