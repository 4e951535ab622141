"""Categories on the wire: bounded, printable, in one order; and the list that follows from all."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedstrata.protocol.categories import (
    MOST_CATEGORIES,
    MOST_CHARACTERS,
    MOST_COLUMNS,
    MOST_IN_ALL,
    CategoriesReport,
    check_columns,
    in_order,
    open_columns,
    united,
)
from fedstrata.protocol.limits import Refused
from fedstrata.protocol.plan import plan_from_json
from fedstrata.support.errors import UserError
from tests.helpers.plans import plan_of

WORDS = st.lists(st.text(max_size=4), max_size=6)


def test_categories_are_in_order_and_once() -> None:
    assert in_order(["10", "9", "", "9.0", "1"]) == ("1", "9", "10")
    assert in_order(["red", "blue", "red", "10"]) == ("10", "blue", "red")
    assert in_order(["1.5", "1"]) == ("1", "1.5")
    assert in_order([""]) == ()


def test_the_list_does_not_depend_on_who_answers_first() -> None:
    north = CategoriesReport("north", {"cp": ("1.0", "2")})
    south = CategoriesReport("south", {"cp": ("10", "2"), "sex": ("f",)})
    assert united([north, south]) == united([south, north])
    assert united([north, south]) == {"cp": ["1", "2", "10"], "sex": ["f"]}


@given(st.lists(WORDS, max_size=4))
def test_the_list_is_that_of_all_words_at_once(sites: list[list[str]]) -> None:
    reports = [CategoriesReport("s", {"c": tuple(words)}) for words in sites]
    every = [word for words in sites for word in words]
    assert united(reports).get("c", []) == list(in_order(every))


def test_the_columns_that_are_asked_for_are_those_agreed() -> None:
    assert open_columns({"categories": {"b": "agreed", "a": "agreed", "c": [1, 2]}}) == ("a", "b")
    for data in ({}, {"categories": None}, {"categories": "agreed"}, {"categories": ["agreed"]}):
        assert open_columns(data) == ()


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"c": tuple(map(str, range(MOST_CATEGORIES + 1)))}, "201 categories; at most 200"),
        ({"c": ("a", "a")}, "each once"),
        ({"c": ("a", "")}, "is no name"),
        ({"c": ("a\n",)}, "is no name"),
        ({"c": ("a" * (MOST_CHARACTERS + 1),)}, "at most 80 characters"),
        ({str(n): () for n in range(MOST_COLUMNS + 1)}, "of 201 columns; at most 200"),
        (
            {c: tuple(f"{n:080}" for n in range(100)) for c in ("c", "d")},
            f"16000 characters; at most {MOST_IN_ALL}",
        ),
    ],
)
def test_what_no_column_has_is_refused(columns: dict, reason: str) -> None:
    with pytest.raises(Refused, match=reason):
        check_columns(columns)
    with pytest.raises(Refused, match=reason):
        CategoriesReport("a", columns).checked()


def test_a_refusal_names_no_category() -> None:
    with pytest.raises(Refused) as raised:
        check_columns({"c": ("Doe\n",)})
    assert "Doe" not in str(raised.value)


def test_names_travel_in_one_order() -> None:
    report = CategoriesReport("a", {"d": ("2", "1"), "c": ("b", "a")}).checked()
    assert list(report.columns.items()) == [("c", ("a", "b")), ("d", ("1", "2"))]
    assert CategoriesReport("a", error="x\ny").checked().error == "x?y"


def test_a_plan_has_only_the_categories_that_it_asks_for() -> None:
    plan = plan_of("tabular", "data.categories={cp:agreed,sex:[f,m]}")
    assert plan.wants_categories
    assert "categories" not in json.loads(plan.to_json())
    known = replace(plan, categories={"cp": ["1", "2"]})
    again = plan_from_json(known.to_json())
    assert again.to_json() == known.to_json()
    assert not again.wants_categories
    chosen = again.data_options["categories"]
    assert {name: list(each) for name, each in chosen.items()} == {
        "cp": ["1", "2"],
        "sex": ["f", "m"],
    }
    for wrong in ({"sex": ["f", "m"]}, {}, {"cp": ["1\n"]}, {"cp": ["1"], "age": ["2"]}):
        with pytest.raises(UserError, match="categories"):
            plan_from_json(replace(plan, categories=wrong).to_json())
    with pytest.raises(UserError, match="categories of other columns"):
        plan_from_json(replace(plan_of("faces"), categories={}).to_json())
