"""How a name in the configuration becomes a thing: one mapping for each kind, and one way to look."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from fedstrata.support.errors import UserError, nearest

Thing = TypeVar("Thing")

# A name may come over the network: an error text repeats no more of it.
MOST_CHARACTERS = 80


def find(key: str, wanted: str, known: Mapping[str, Thing]) -> Thing:
    """Return what ``known`` has under the name ``wanted``.

    Each package that has things to choose from lists them in one mapping, written out. So a name
    from a message selects from that mapping, and nothing else is ever imported or built.

    Parameters
    ----------
    key : str
        Where the name stands in the configuration, such as ``method.name``, for the error text.
    wanted : str
        The name.
    known : mapping
        What there is, by name.

    Raises
    ------
    UserError
        There is nothing of that name. The text lists all names, and those most alike.
    """
    if wanted not in known:
        raise UserError(
            f"{key} {wanted[:MOST_CHARACTERS]!r} does not exist; there are: {', '.join(known)} "
            f"(nearest: {nearest(wanted, known)})"
        )
    return known[wanted]
