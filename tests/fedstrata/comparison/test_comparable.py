"""Runs are paired only where they are on the same data."""

from __future__ import annotations

import msgspec
import pytest

from fedstrata.comparison.comparable import check_comparable, difference, sets_of, unchecked
from fedstrata.support.errors import UserError
from tests.helpers.comparisons import a_run

VALUES = {"north": 0.5, "south": 0.6}
NONE = {"north": "", "south": ""}


def test_runs_of_one_seed_need_equal_digests() -> None:
    one, same = a_run(1, VALUES), a_run(1, VALUES, method="ditto")
    other = a_run(1, VALUES, digests={"north": "x"}, config={"data": {"alpha": 1.0}})
    assert difference(one, same) == ""
    assert difference(one, other) == "north: other data; data.alpha is 0.1 and 1.0"


def test_equal_data_may_be_read_with_other_options() -> None:
    moved = a_run(1, VALUES, config={"data": {"alpha": 0.1, "workers": 2}})
    assert difference(a_run(1, VALUES), moved) == ""


def test_the_data_of_another_seed_may_differ_but_not_their_options() -> None:
    one, two = a_run(1, VALUES), a_run(2, VALUES)
    other = a_run(2, VALUES, config={"data": {"alpha": 1.0}})
    assert difference(one, two) == ""
    assert difference(one, other) == "data.alpha is 0.1 and 1.0"


def test_with_a_seed_of_the_data_those_of_two_runs_are_equal() -> None:
    data = {"data": {"alpha": 0.1, "seed": 1}}
    one = a_run(1, VALUES, config=data)
    same = {name: site.digest for name, site in one.sites.items()}
    two = a_run(2, VALUES, config=data, digests=same)
    assert difference(one, two) == ""
    changed = a_run(2, VALUES, config=data, digests={**same, "north": "x"})
    assert difference(one, changed) == "north: other data"


def test_other_sites_and_tasks_are_named() -> None:
    one = a_run(1, VALUES)
    assert difference(one, a_run(2, {"north": 0.5})) == "only fedavg-1 has south"
    number = a_run(1, VALUES, kinds={"south": "number"})
    assert difference(one, number) == "south: task 'grade' (classes) and 'number' (number)"


def test_deployed_sites_are_compared_by_their_numbers_of_examples() -> None:
    one = a_run(1, VALUES, digests=NONE)
    fewer = {
        **one.sites,
        "south": msgspec.structs.replace(one.sites["south"], examples={"train": 9}),
    }
    other = msgspec.structs.replace(one, run="b", sites=fewer)
    assert difference(one, other) == "south: 10 and 0 test examples"
    assert difference(one, msgspec.structs.replace(one, run="b")) == ""
    assert difference(one, a_run(1, VALUES, digests=NONE, config={"data": {"alpha": 2}})) != ""
    assert unchecked([one, a_run(2, VALUES)]) == ["fedavg-1"]


def test_what_cannot_be_paired_is_refused_by_name_or_set_apart() -> None:
    first, second = a_run(1, VALUES), a_run(1, VALUES, method="b", digests={"south": "x"})
    third = a_run(1, VALUES, method="c")
    with pytest.raises(
        UserError, match=r"fedavg-1 and b-1 cannot be paired.*south: other data.*--apart"
    ):
        check_comparable([first, third, second])
    assert [[run.run for run in each] for each in sets_of([first, second, third])] == [
        ["fedavg-1", "c-1"],
        ["b-1"],
    ]
