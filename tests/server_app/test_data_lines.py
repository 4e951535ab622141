"""What sites say of their data is a line each, however many say it."""

from __future__ import annotations

from fedstrata.protocol.data_description import DataDescription
from server_app.data_lines import data_lines
from tests.helpers.members import member


def test_a_line_that_all_say_stands_once_without_names() -> None:
    said = DataDescription(notes=("Training/ is the split train",))
    members = {name: member(name, data=said) for name in ("a", "b")}
    assert data_lines(members) == ["data: Training/ is the split train"]


def test_a_line_of_some_names_them() -> None:
    members = {f"s{n}": member(f"s{n}", data=DataDescription(notes=("x",))) for n in range(7)}
    members["t"] = member("t")
    assert data_lines(members) == ["data: x (s0, s1, s2, s3, s4 and 2 more)"]


def test_who_a_simulated_site_is() -> None:
    members = {name: member(name, data=DataDescription(source=f"ward {name}")) for name in "ab"}
    assert data_lines(members) == ["data: a is ward a, b is ward b"]


def test_sites_that_are_called_as_their_data_are_not_listed_and_of_many_a_part_is() -> None:
    members = {name: member(name, data=DataDescription(source="a")) for name in "ab"}
    assert data_lines(members) == ["data: b is a"]
    many = {
        f"s{n:02d}": member(f"s{n:02d}", data=DataDescription(source=f"w{n}")) for n in range(60)
    }
    (line,) = data_lines(many)
    assert line.startswith("data: s00 is w0, ")
    assert line.endswith("s49 is w49 and 10 more, which results.json has")


def test_unlike_ranges_are_a_warning() -> None:
    ranges = {"a": (0.0, 4095.0), "b": (0.0, 65535.0)}
    members = {n: member(n, data=DataDescription(value_range=r)) for n, r in ranges.items()}
    (line,) = data_lines(members)
    assert line.startswith("warning: the sites scale their values by unlike ranges")


def test_nothing_to_say_is_no_line() -> None:
    assert data_lines({"a": member("a")}) == []
