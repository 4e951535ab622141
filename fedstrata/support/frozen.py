"""Plain configuration as a hashable value, so that it can be the key of a cache."""

from __future__ import annotations

from collections.abc import Hashable, Mapping


def frozen(value: object) -> Hashable:
    """Return nested mappings and lists as nested tuples; equal configuration gives equal tuples.

    The order of a mapping's keys does not count, that of a list does. Plain values keep their type:
    ``1``, ``1.0`` and ``True`` are equal in Python, but not as configuration.

    Raises
    ------
    TypeError
        Where something in it is neither a mapping, a list, a tuple nor hashable.
    """
    if isinstance(value, Mapping):
        return Mapping, frozenset((str(key), frozen(inner)) for key, inner in value.items())
    if isinstance(value, list | tuple):
        return list, tuple(frozen(inner) for inner in value)
    if not isinstance(value, Hashable):
        raise TypeError(f"{type(value).__name__} is no plain configuration")
    return type(value), value
