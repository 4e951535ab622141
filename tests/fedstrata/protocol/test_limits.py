"""Texts from elsewhere are short, on one line, and steer no terminal; names are names of files."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedstrata.protocol.limits import (
    MOST_REASON_CHARACTERS,
    NAME,
    NotNow,
    Refused,
    one_line,
    printable,
)


@given(st.text(max_size=3000))
def test_a_text_from_elsewhere_is_one_short_line(text: str) -> None:
    line = one_line(text)
    assert line.isprintable()
    assert len(line) == min(len(text), MOST_REASON_CHARACTERS)


def test_escapes_and_line_ends_are_replaced() -> None:
    assert printable("a\x1b[2J\nb \u202e ü") == "a?[2J?b ? ü"


@pytest.mark.parametrize("kind", [Refused, NotNow])
def test_a_reason_is_one_line_whoever_wrote_it(kind: type[Refused]) -> None:
    assert str(kind("bad\n" + "x" * 9999)) == "bad?" + "x" * (MOST_REASON_CHARACTERS - 4)


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "a b", "ü", "x" * 65, "a\n"])
def test_what_is_no_name_of_a_file_is_no_name(name: str) -> None:
    assert not NAME.fullmatch(name)


@pytest.mark.parametrize("name", ["a", "site-00", "x" * 64, "9.v_1"])
def test_a_plain_name_is_one(name: str) -> None:
    assert NAME.fullmatch(name)
