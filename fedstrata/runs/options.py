"""The options of a run's configuration as lines, and those in which runs differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fedstrata.runs.results import Results


def leaves(value: object, prefix: str = "") -> dict[str, str]:
    """Return a configuration as lines: ``train.epochs`` to its value."""
    if isinstance(value, Mapping) and value:
        found: dict[str, str] = {}
        for key, inner in value.items():
            found |= leaves(inner, f"{prefix}.{key}" if prefix else str(key))
        return found
    if isinstance(value, list | tuple):
        return {prefix: f"[{', '.join(map(_plain, value))}]"}
    return {prefix: _plain(value)}


def differences(runs: Sequence[Results]) -> dict[str, list[str]]:
    """Return the options in which runs differ, each with its value in every run.

    What is chosen, such as a method, stands before its own options.
    """
    flat = [leaves(results.config) for results in runs]
    keys = sorted({key for each in flat for key in each}, key=_place)
    rows = {key: [each.get(key, "") for each in flat] for key in keys}
    return {key: values for key, values in rows.items() if len(set(values)) > 1}


def _place(key: str) -> tuple[str, bool, str]:
    above, _, last = key.rpartition(".")
    return above, last != "name", last


def _plain(value: object) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
