"""The one exception for mistakes that a user can mend: what is wrong, where, what to write instead."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(frozen=True)
class PrivateText:
    """A text with private parts: the whole of it, and what is public.

    ``+`` joins it with other texts; plain text is part of both versions.

    Parameters
    ----------
    whole : str
        With all that helps, for whoever may see what is on this machine.
    public : str
        Without what may not leave this machine: names of files, values of the data.
    """

    # Not in the repr, and not in `str`: an f-string or a log line must not let private parts out
    # by accident. Whoever wants the whole text has to write `.whole`.
    whole: str = field(repr=False)
    public: str

    def __add__(self, after: str | PrivateText) -> PrivateText:
        more = as_private_text(after)
        return PrivateText(self.whole + more.whole, self.public + more.public)

    def __radd__(self, before: str) -> PrivateText:
        return as_private_text(before) + self

    def __str__(self) -> str:
        return self.public


def as_private_text(text: str | PrivateText) -> PrivateText:
    """Return ``text`` as a `PrivateText`; plain text has no private part."""
    return text if isinstance(text, PrivateText) else PrivateText(text, text)


def private(value: object, instead: str = "") -> PrivateText:
    """Return a private part of a text; where the text leaves this machine, ``instead`` is there."""
    return PrivateText(str(value), instead)


class UserError(ValueError):
    """A mistake in configuration, data or weights, in words that a user can act on.

    Parameters
    ----------
    message : str or PrivateText
        What is wrong; as a `str` the error is the whole of it.

    Attributes
    ----------
    public : str
        The text without its private parts.
    """

    def __init__(self, message: str | PrivateText) -> None:
        super().__init__(as_private_text(message).whole)
        self.public = as_private_text(message).public


@contextmanager
def private_reason(public: str) -> Iterator[None]:
    """Make the text of a `UserError` of the block private: ``public`` is all of it that may leave."""
    try:
        yield
    except UserError as error:
        raise UserError(private(error, public)) from error


def nearest(wanted: str, existing: Iterable[str], *, most: int = 5) -> str:
    """Return the names in ``existing`` closest to ``wanted`` as ``'a', 'b'``, for error texts.

    Capital letters count as small ones. Where nothing is close, the first ``most`` names in sorted
    order are listed instead, so that the text always says what exists.
    """
    names = sorted(set(existing))
    spelled: dict[str, list[str]] = {}
    for name in names:
        spelled.setdefault(name.lower(), []).append(name)
    close = difflib.get_close_matches(wanted.lower(), spelled, n=most, cutoff=0.5)
    found = [name for each in close for name in spelled[each]]
    return ", ".join(repr(name) for name in (found or names)[:most]) or "nothing"
