"""Cuts the text of `overrides` into words for Hydra, so that names stay as they were written."""

from __future__ import annotations

import re

from fedstrata.support.errors import UserError

OPENING, CLOSING = "[{(", "]})"
QUOTES = "'\""
_BARE = re.compile(r"""[^\[\]{}(),:='"\s](?:[^\[\]{}(),:="]*[^\[\]{}(),:="\s])?""")
_ODD = re.compile(r"[^\x00-\x7f]|'")  # what Hydra's parser takes within quotes alone


def split_overrides(text: str) -> list[str]:
    """Return the overrides in a text: words with spaces between them.

    Spaces within quotes or brackets are part of a word, and quotes stay where they are: in
    ``data.classes={label:['left, upper',right]}`` they say that there are two classes. An
    apostrophe within a word is no quote.

    Raises
    ------
    UserError
        A quote is not closed.
    """
    words: list[str] = []
    word, depth, place = "", 0, 0
    while place < len(text):
        character = text[place]
        if character in QUOTES and not _within_word(text, place):
            end = _closing(text, place)
            word, place = word + text[place:end], end
            continue
        depth = max(depth + (character in OPENING) - (character in CLOSING), 0)
        if character.isspace() and not depth:
            words += [word] if word else []
            word = ""
        else:
            word += character
        place += 1
    words += [word] if word else []
    return [_unwrapped(each) for each in words]


def quoted_names(override: str) -> str:
    """Return an override with quotes around bare names that have letters beyond ASCII, or apostrophes."""
    key, given, value = override.partition("=")
    if not given or not _ODD.search(value):
        return override
    made, place = "", 0
    while place < len(value):
        if value[place] in QUOTES and not _within_word(value, place):
            end = _closing(value, place)
            made, place = made + value[place:end], end
        elif found := _BARE.match(value, place):
            bare = found[0]
            made += f'"{bare}"' if _ODD.search(bare) else bare
            place = found.end()
        else:
            made, place = made + value[place], place + 1
    return f"{key}={made}"


def _within_word(text: str, place: int) -> bool:
    """Whether the character at ``place`` is an apostrophe between two letters."""
    return (
        text[place] == "'" and text[place - 1 : place].isalnum() and text[place + 1 :][:1].isalnum()
    )


def _closing(text: str, place: int) -> int:
    """Return the place behind the quote that closes the one at ``place``."""
    end = place + 1
    while end < len(text):
        if text[end] == text[place] and not _within_word(text, end):
            return end + 1
        end += 1
    raise UserError(
        f"overrides: the quote before {text[place + 1 : place + 31]!r} is not closed; write names "
        "with spaces or commas in double quotes"
    )


def _unwrapped(word: str) -> str:
    """Return a word without the quotes around all of it."""
    whole = len(word) > 1 and word[0] in QUOTES and _closing(word, 0) == len(word)
    return word[1:-1] if whole else word
