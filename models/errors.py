"""The one exception for mistakes that a user can mend: what is wrong, where, what to write instead."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in configuration, data or weights, told in words that a user can act on."""


def nearest(wanted: str, existing: Iterable[str], *, most: int = 5) -> str:
    """Return the names in ``existing`` closest to ``wanted`` as ``'a', 'b'``, for error texts.

    Where nothing is close, the first ``most`` names in sorted order are listed instead, so that
    the text always says what exists.
    """
    names = sorted(set(existing))
    close = difflib.get_close_matches(wanted, names, n=most, cutoff=0.5)
    return ", ".join(repr(name) for name in (close or names[:most])) or "nothing"
