"""Runs that are compared: results of made-up sites, with one task of classes unless asked for more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedstrata.runs.results import Results
from tests.helpers.run_results import typed

Values = Mapping[str, float]
LEADING = {"classes": "accuracy", "labels": "auroc", "number": "mae"}


def measured_sites(
    values: Values, alone: Values | None, kinds: Mapping[str, str], examples: Values
) -> dict[str, Any]:
    """Return the sites of an evaluation."""
    found = {}
    for site, value in values.items():
        kind = kinds.get(site, "classes")
        leading = LEADING[kind]
        found[site] = {
            "task": "grade" if kind == "classes" else kind,
            "kind": kind,
            "examples": examples.get(site, 10.0),
            leading: value,
            **({f"alone_{leading}": alone[site]} if alone and site in alone else {}),
        }
    return found


def a_run(
    seed: int,
    last: Values,
    *,
    method: str = "fedavg",
    alone: Values | None = None,
    rounds: Sequence[Values] = (),
    best: tuple[int, Values] | None = None,
    kinds: Mapping[str, str] | None = None,
    examples: Values | None = None,
    digests: Mapping[str, str] | None = None,
    config: Mapping[str, Any] | None = None,
    **more: Any,
) -> Results:
    """Return a run with the values of each round, of the last state and of the best one."""
    kinds, examples = kinds or {}, examples or {}
    history = [
        {
            "round": number,
            "seconds": 2.0,
            "bytes_down": {"common": 3_000_000},
            "bytes_up": {"common": 1_000_000, "task": 500_000},
            "sites": measured_sites(values, None, kinds, examples),
        }
        for number, values in enumerate(rounds, start=1)
    ]
    sites = {
        site: {
            "task": "grade" if kinds.get(site, "classes") == "classes" else kinds[site],
            "kind": kinds.get(site, "classes"),
            "classes": ["ill", "well"],
            "examples": {"train": 40, "test": 10},
            "data": {"digest": (digests or {}).get(site, f"{site} {seed}")},
        }
        for site in {**last, **kinds}
    }
    plain: dict[str, Any] = {
        "run": f"{method}-{seed}",
        "config": {
            "seed": seed,
            "method": {"name": method},
            "data": {"alpha": 0.1},
            **(config or {}),
        },
        "versions": {"torch": "2.11"},
        "seed": seed,
        "partition": {},
        "sites": sites,
        "rounds": history,
        "participation": {},
        "final": {"sites": measured_sites(last, alone, kinds, examples)},
        **more,
    }
    if best is not None:
        number, values = best
        plain["best"] = {"round": number, "sites": measured_sites(values, alone, kinds, examples)}
    return typed(plain)
