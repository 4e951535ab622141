"""The benchmark of the feature cache compares float16 with float32, site by site."""

from __future__ import annotations

from typing import Any

from benchmarks.cache import COMPACT, EXACT, QUICK, table
from benchmarks.report.tables import Figure
from server_app.compose import compose


def results(**accuracies: float) -> dict[str, Any]:
    mean = sum(accuracies.values()) / len(accuracies)
    sites = {name: {"accuracy": value} for name, value in accuracies.items()}
    return {"final": {"sites": sites, "mean": {"accuracy": mean}}}


def test_the_table_has_the_mean_and_the_largest_difference_of_a_site() -> None:
    found = {
        EXACT.name: [results(a=0.5, b=0.7), results(a=0.6, b=0.8)],
        COMPACT.name: [results(a=0.5, b=0.6), results(a=0.7, b=0.8)],
    }
    rows = table(found, 2).rows
    assert rows[EXACT.name][1:] == ("-", "-")
    assert rows[COMPACT.name][1:] == ("+0.00", "10.00")
    assert rows[COMPACT.name][0] == Figure((0.55, 0.75))


def test_the_cases_differ_in_the_dtype_of_features_alone() -> None:
    exact, compact = (
        compose("faces_paper", [*QUICK, *case.overrides]).to_dict() for case in (EXACT, COMPACT)
    )
    assert (exact["train"].pop("feature_dtype"), compact["train"].pop("feature_dtype")) == (
        "float32",
        "float16",
    )
    assert exact == compact
