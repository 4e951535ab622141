"""Cuts the text of `overrides` into words for Hydra, so that names stay as they were written."""

from __future__ import annotations

import re

from fedstrata.support.errors import UserError

OPENING, CLOSING = "[{(", "]})"
QUOTES = "'\""
_BARE = re.compile(r"""[^\[\]{}(),:='"\s](?:[^\[\]{}(),:="]*[^\[\]{}(),:="\s])?""")
_KEY = re.compile(r"\w[\w -]*", re.ASCII)
_ODD = re.compile(r"[^\x00-\x7f]|['!#&<>^~`]")  # what Hydra's parser takes within quotes alone
_OF_WORDS = re.compile(
    r"[+~]*data\.(?:classes(?:\.[\w-]+)?|missing)"
)  # lists of words of the user's
# An absolute path with signs that have a meaning in Hydra; a comma stands between several values.
_PATH = re.compile(r"""/[^,'"\\]*[()\[\]{}=:][^,'"\\]*""")
_NUMBER = re.compile(
    r"[+-]?(?:\d[\d_]*(?:\.[\d_]*)?|\.\d[\d_]*)(?:[eE][+-]?\d[\d_]*)?|[+-]?inf|nan",
    re.ASCII | re.IGNORECASE,
)


def split_overrides(text: str) -> list[str]:
    """Return the overrides in a text: words with spaces between them.

    Spaces within quotes or brackets are part of a word, and quotes stay where they are: in
    ``data.classes={label:['left, upper',right]}`` they say that there are two classes. An
    apostrophe within a word is no quote, and two within quotes are one apostrophe.

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
    """Return an override with quotes around bare names that Hydra would refuse, or read as others.

    Those are names with letters beyond ASCII, apostrophes or signs such as ``<``; absolute paths
    with brackets, ``=`` or ``:``; and in lists of classes, and of cells that mean "missing", numbers
    that are written in a way of their own, such as ``0.50``.
    """
    key, given, value = override.partition("=")
    of_words = _OF_WORDS.fullmatch(key) is not None
    if _PATH.fullmatch(value):
        return f'{key}="{value}"'
    if not given or not (of_words or _ODD.search(value)):
        return override
    made, place, opened = "", 0, ""
    while place < len(value):
        if value[place] in QUOTES and not _within_word(value, place):
            quoted, place = _quoted(value, place)
            plain = quoted[1:-1]
            # Hydra takes no quotes around a key.
            made += plain if _is_key(value, place, opened) and _KEY.fullmatch(plain) else quoted
        elif found := _BARE.match(value, place):
            bare, place = found[0], found.end()
            if _ODD.search(bare) and _is_key(value, place, opened):
                raise UserError(
                    f"overrides: {bare[:40]!r} cannot be the name of a task, which has letters from "
                    f"a to z, digits, _ and -; a column may have it, as in {{size: {bare[:40]}}}"
                )
            listed = of_words and opened.endswith("[") and _is_entry(made, value[place:])
            odd = _ODD.search(bare) or (listed and _changes(bare))
            made += f'"{bare}"' if odd else bare
        else:
            opened = _still_open(opened, value[place])
            made, place = made + value[place], place + 1
    return f"{key}={made}"


def _quoted(text: str, place: int) -> tuple[str, int]:
    """Return the quoted name at ``place`` and the place behind it; two quotes in it are one."""
    quote, end = text[place], _closing(text, place)
    parts = [text[place + 1 : end - 1]]
    while text[end : end + 1] == quote:
        start, end = end, _closing(text, end)
        parts.append(text[start + 1 : end - 1])
    if len(parts) == 1:
        return text[place:end], end
    other = QUOTES.replace(quote, "")
    return other + quote.join(parts) + other, end


def _is_key(text: str, place: int, opened: str) -> bool:
    """Whether the name that ends at ``place`` is a key: a colon follows, and the bracket is a brace."""
    return opened.endswith("{") and text[place:].lstrip().startswith(":")


def _is_entry(before: str, after: str) -> bool:
    """Whether what stands between two texts is the whole of an entry of a list."""
    return before.rstrip()[-1:] in ("[", ",") and after.lstrip()[:1] in (",", "]")


def _changes(word: str) -> bool:
    """Whether a word is a number that would be written otherwise once it was read."""
    if not _NUMBER.fullmatch(word):
        return False
    try:
        return str(int(word)) != word
    except ValueError:
        return True  # decimals: in a file of configuration they ask for quotes


def _still_open(opened: str, character: str) -> str:
    """Return the brackets that are open behind ``character``."""
    if character in OPENING:
        return opened + character
    return opened[:-1] if character in CLOSING else opened


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
