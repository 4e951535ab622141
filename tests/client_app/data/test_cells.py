"""A cell is missing, a number, or the same as another one, by one set of rules."""

from __future__ import annotations

import pytest

from client_app.data.cells import CellRules, Faults, normal, perhaps_missing, same_key
from fedstrata.support.errors import UserError, private


def test_missing_words_are_found_in_any_case_with_blanks() -> None:
    rules = CellRules()
    for cell in ("", "  ", "NaN", " n/a ", "NONE", "Null", "#N/A", "<NA>"):
        assert rules.is_missing(cell)
    assert not rules.is_missing("0")
    assert not CellRules(missing=()).is_missing("nan")
    assert CellRules(missing=()).is_missing("")


def test_words_and_signs_that_often_mean_nothing_are_doubtful() -> None:
    for cell in ("?", " - ", "--", "...", "Unknown", "not  recorded", "#N/A N/A", "-1", "\ufeffNA"):
        assert perhaps_missing(cell), cell
    for cell in ("1", "0", "cat", "no", "A-", "+1", "known"):
        assert not perhaps_missing(cell), cell


def test_numbers_have_one_decimal_sign() -> None:
    assert CellRules().number(" -1.5e1 ") == -15
    assert CellRules().number("1,5") is None
    assert CellRules(decimal=",").number("1,5") == 1.5
    assert CellRules(decimal=",").number("1.5") is None
    assert CellRules().looks_like_other_decimals("1,5")
    assert not CellRules().looks_like_other_decimals("a")
    with pytest.raises(UserError, match=r"data\.decimal"):
        CellRules(decimal=";")


def test_case_blanks_and_the_format_of_a_number_make_no_difference() -> None:
    assert same_key("1.0") == same_key("1") == same_key("01")
    assert same_key(" Cat  Dog") == same_key("cat dog")
    assert same_key("1.5") != same_key("1")
    assert normal("O\u0308 ") == "Ö"


def test_faults_are_named_together() -> None:
    faults = Faults()
    faults.raise_any("never")
    for number in range(13):
        faults.add(private(f"name {number}", "a row"))
    with pytest.raises(UserError, match=r"name 0; name 1.*name 9; and 3 more: mend them") as raised:
        faults.raise_any(": mend them")
    assert raised.value.public == "a row: mend them"
