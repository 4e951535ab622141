"""The table of deployment has a row for each site, those that join later included."""

from __future__ import annotations

from typing import Any

from benchmarks.accuracy.deployment_table import DeploymentTable, count_of
from benchmarks.accuracy.study import Case
from benchmarks.accuracy.transfer_sets import deployment
from benchmarks.report.tables import Figure


def site(before: float, after: float, alone: float) -> dict[str, Any]:
    measured = {"before": before, "after": after, "alone": alone}
    return {
        "task": "pose",
        "majority_accuracy": 0.3,
        **{when: {"accuracy": value} for when, value in measured.items()},
    }


def test_a_row_has_before_after_alone_and_pooled() -> None:
    results = {
        "sites": {"site-00": site(0.5, 0.6, 0.7), "site-01": site(0.6, 0.5, 0.4)},
        "newcomers": {"site-02": site(0.5, 0.6, 0.4)},
    }
    pooled = {f"site-0{i}": {"accuracy": 0.9} for i in range(3)}
    table, note = DeploymentTable(deployment(2), (1,))._table(
        Case("tuned", ()), [results], [pooled]
    )
    assert list(table.rows) == [
        "site-00, pose",
        "site-01, pose",
        "site-02, pose (joins after training)",
    ]
    figures = [Figure((value,)) for value in (0.5, 0.6, 0.7, 0.9, 0.3)]
    assert table.rows["site-00, pose"] == tuple(figures)
    assert "worse than before at 1 of 3 sites (site-01)" in note
    assert note.endswith("alone is better than both, before and after, at 1 of 3 sites (site-00).")


def test_sites_are_counted_and_named() -> None:
    assert count_of([], 3) == "no site"
    assert count_of(["a", "b"], 3) == "2 of 3 sites (a, b)"
    assert count_of(["a", "b", "c"], 3) == "all 3 sites"
