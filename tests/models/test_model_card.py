"""A model's card is written as JSON, and read as from a stranger."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedstrata.support.errors import UserError
from models.model_card import MOST_CARD, card_from_json, versions_of
from tests.helpers.model_cards import CARD, card

PLAIN = json.loads(CARD.to_json())


def test_what_is_written_is_read() -> None:
    full = card(metrics={"after": {"test": {"accuracy": 0.5, "auroc": None}}}, tuned=("a",))
    assert card_from_json(full.to_json()) == full
    assert full.to_dict()["kind"]["name"] == "classes"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": 2}, "format"),
        ({"more": 1}, "more"),
        ({"outputs": []}, "outputs"),
        ({"round": -1}, "round"),
        ({"kind": {"name": "spells"}}, "no kind of task"),
        ({"network": {**PLAIN["network"], "head": [0]}}, "head"),
        ({"network": {**PLAIN["network"], "input_shape": [1 << 40]}}, "input_shape"),
        ({"network": {**PLAIN["network"], "dropout": 1.0}}, "dropout"),
        ({"network": {**PLAIN["network"], "options": {"hidden": [[1]]}}}, "options"),
        ({"preprocessing": {**PLAIN["preprocessing"], "size": 1 << 20}}, "size"),
        ({"preprocessing": {**PLAIN["preprocessing"], "std": [0, 0, 0]}}, "above 0"),
        ({"preprocessing": {"type": "pickle"}}, "pickle"),
    ],
)
def test_a_card_that_cannot_be_is_rejected(change: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match="card cannot be read") as error:
        card_from_json(json.dumps({**PLAIN, **change}))
    assert said in str(error.value)


def test_a_huge_card_is_rejected() -> None:
    with pytest.raises(UserError, match="larger than 16 MiB"):
        card_from_json(" " * (MOST_CARD + 1))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@settings(max_examples=60)
@given(st.sampled_from(sorted(PLAIN)), VALUES)
def test_any_value_gives_a_card_or_an_error(key: str, value: object) -> None:
    with suppress(UserError):
        assert card_from_json(json.dumps({**PLAIN, key: value})).task


@given(st.text(max_size=40))
def test_any_text_gives_an_error(text: str) -> None:
    with pytest.raises(UserError):
        card_from_json(text)


def test_only_installed_packages_have_versions() -> None:
    assert versions_of("torch", "no-such-package").keys() == {"torch"}
