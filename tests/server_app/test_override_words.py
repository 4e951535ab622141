"""Overrides keep the names that were written."""

from __future__ import annotations

import pytest
from hypothesis import given
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
    ],
)
def test_names_of_classes_are_what_was_written(written: str, names: tuple[str, ...]) -> None:
    (word,) = split_overrides(f"data.classes={{label:{written}}}")
    assert compose("images", [word]).data["classes"]["label"] == names
    (word,) = split_overrides(f"data.classes.label={written}")
    assert compose("images", [word]).data["classes"]["label"] == names


@pytest.mark.parametrize("written", ["[true,false]", "[null,a]", "[1e3,2e3]"])
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
