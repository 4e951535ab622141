"""Overrides keep the names that were written."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedstrata.support.errors import UserError
from server_app.compose import compose
from server_app.override_words import quoted_names, split_overrides


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        ("  seed=1   train.epochs=2 ", ["seed=1", "train.epochs=2"]),
        ("seed=1 ; seed=2", ["seed=1", ";", "seed=2"]),
        ("a=[1, 2] b={c: 3}", ["a=[1, 2]", "b={c: 3}"]),
        ("a='x y' \"b=1\"", ["a='x y'", "b=1"]),
        ("a=it's b=1", ["a=it's", "b=1"]),
        ("a=['left, upper',right]", ["a=['left, upper',right]"]),
    ],
)
def test_words_are_cut_at_spaces_outside_of_quotes_and_brackets(
    text: str, words: list[str]
) -> None:
    assert split_overrides(text) == words


def test_a_quote_that_is_not_closed_is_said() -> None:
    with pytest.raises(UserError, match="the quote before 'x b=1' is not closed"):
        split_overrides("a='x b=1")


@given(st.text(max_size=60))
def test_any_text_is_cut_or_refused(text: str) -> None:
    try:
        words = split_overrides(text)
        [quoted_names(word) for word in words]
    except UserError:
        return
    assert not any(word.isspace() for word in words)


@pytest.mark.parametrize(
    ("written", "names"),
    [
        ("[Ödem,gesund]", ("Ödem", "gesund")),
        ("[it's,benign]", ("it's", "benign")),
        ("['left, upper',right]", ("left, upper", "right")),
        ('["left, Ödem",right]', ("left, Ödem", "right")),
        ("[0,255]", ("0", "255")),
        ("[1.5,2.0]", ("1.5", "2.0")),
        ("[01,02]", ("01", "02")),
        ("[病変,正常]", ("病変", "正常")),
        ("[Ödem,'it''s',1]", ("Ödem", "it's", "1")),
        ("[0.50,1.00, .5 , 1. ,1e3,2E-1,inf]", ("0.50", "1.00", ".5", "1.", "1e3", "2E-1", "inf")),
        ("[007,7,+5,-0,-7,1_000,1000]", ("007", "7", "+5", "-0", "-7", "1_000", "1000")),
        ("[yes,off,2020-01-01,31.12.2020]", ("yes", "off", "2020-01-01", "31.12.2020")),
        ("[12:30,00:30,0x1F,1.50 mm]", ("12:30", "00:30", "0x1F", "1.50 mm")),
        ("[<40,>40,~60,a&b,#1]", ("<40", ">40", "~60", "a&b", "#1")),
    ],
)
def test_names_of_classes_are_what_was_written(written: str, names: tuple[str, ...]) -> None:
    (word,) = split_overrides(f"data.classes={{label:{written}}}")
    assert compose("images", [word]).data["classes"]["label"] == names
    (word,) = split_overrides(f"data.classes.label={written}")
    assert compose("images", [word]).data["classes"]["label"] == names


def test_words_for_missing_are_what_was_written() -> None:
    (word,) = split_overrides("data.missing=[-999.00, 1e3, -9, '']")
    assert list(compose("images", [word]).data["missing"]) == ["-999.00", "1e3", -9, ""]


def test_other_lists_of_numbers_are_numbers() -> None:
    for text in ("data.range=[0.50,1e3]", "data.mean=[0.50,.5,1.]"):
        assert quoted_names(text) == text


@settings(max_examples=5, deadline=None)
@given(st.text(st.sampled_from("0123456789._+-eE"), min_size=1, max_size=8))
def test_a_number_is_a_class_of_its_own_spelling_or_an_error(name: str) -> None:
    word = f"data.classes={{label:[{name},other]}}"
    try:
        names = compose("images", [word]).data["classes"]["label"]
    except UserError:
        return
    assert tuple(names) == (name, "other")


@pytest.mark.parametrize("written", ["[true,false]", "[null,a]"])
def test_a_name_that_is_read_as_something_else_asks_for_quotes(written: str) -> None:
    with pytest.raises(UserError, match=r'write it in quotes, as in data.classes=\{label:\["'):
        compose("images", [f"data.classes={{label:{written}}}"])
    quoted = written.replace("[", '["').replace(",", '","').replace("]", '"]')
    names = compose("images", [f"data.classes={{label:{quoted}}}"]).data["classes"]["label"]
    assert list(names) == written.strip("[]").split(",")


def test_the_name_of_a_task_is_plain_and_a_column_may_have_any() -> None:
    for written in (
        "data.tasks={größe:a}",
        "data.classes={Größe:[a,b]}",
        "data.tasks.Größe.kind=number",
    ):
        with pytest.raises(UserError, match="letters from a to z"):
            compose("images", [written])
    tasks = compose("images", ["data.tasks={size: Größe, 'my task': x}"]).data["tasks"]
    assert tasks == {"size": "Größe", "my task": "x"}
