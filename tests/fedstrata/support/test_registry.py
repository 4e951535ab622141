"""A name is looked up in a mapping; an unknown one is answered with those that exist."""

import pytest

from fedstrata.support.errors import UserError
from fedstrata.support.registry import MOST_CHARACTERS, find

COLOURS = {"red": 1, "green": 2, "blue": 3}


def test_a_known_name_gives_its_thing() -> None:
    assert find("paint.colour", "green", COLOURS) == 2


def test_an_unknown_name_is_answered_with_all_names_and_the_nearest() -> None:
    with pytest.raises(UserError) as raised:
        find("paint.colour", "bleu", COLOURS)
    text = "paint.colour 'bleu' does not exist; there are: red, green, blue (nearest: 'blue')"
    assert str(raised.value) == text


def test_a_long_name_is_cut_in_the_message() -> None:
    with pytest.raises(UserError) as raised:
        find("paint.colour", "x" * 10_000, COLOURS)
    assert "x" * MOST_CHARACTERS in str(raised.value)
    assert "x" * (MOST_CHARACTERS + 1) not in str(raised.value)
