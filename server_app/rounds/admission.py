"""Whether a site fits its task, and taking it in."""

from __future__ import annotations

from collections.abc import Mapping

from fedstrata.protocol.codec import forms
from fedstrata.protocol.codings import described
from fedstrata.protocol.tensors import TensorSpec


def described_schema(schema: Mapping[str, TensorSpec]) -> dict[str, str]:
    """Return dtype and shape by tensor name, as text."""
    return {name: described(form) for name, form in forms(schema).items()}


def schema_difference(mine: dict[str, str], theirs: dict[str, str], most: int = 3) -> str:
    """Name the first tensors that differ between two schemas, ours first."""
    lines = []
    for name in sorted(mine.keys() | theirs.keys()):
        ours, other = mine.get(name, "missing"), theirs.get(name, "missing")
        if ours != other:
            lines.append(f"{name[:80]} is {other[:60]} here and {ours} there")
    more = f" and {len(lines) - most} more" if len(lines) > most else ""
    return "; ".join(lines[:most]) + more
