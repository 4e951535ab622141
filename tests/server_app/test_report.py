"""What the log says at the end follows from the sites that can be compared."""

from __future__ import annotations

from typing import Any

from server_app.report import final_tables, verdict


def site(accuracy: float, alone: float | None, examples: int = 10) -> dict[str, Any]:
    return {
        "task": "grade",
        "accuracy": accuracy,
        "balanced_accuracy": accuracy,
        "auroc": None,
        "majority_accuracy": 0.5,
        "alone_accuracy": alone,
        "examples": examples,
    }


def final(**sites: dict[str, Any]) -> dict[str, Any]:
    def mean(name: str) -> float | None:
        there = [each[name] for each in sites.values() if each[name] is not None]
        return sum(there) / len(there) if there else None

    names = ("accuracy", "majority_accuracy", "alone_accuracy")
    means = {name: mean(name) for name in names}
    task = {**site(0.8, means["alone_accuracy"]), "sites": len(sites)}
    return {"sites": sites, "mean": means, "tasks": {"grade": task}}


def test_the_federation_is_compared_with_the_sites_that_were_trained_alone() -> None:
    said = final(a=site(0.9, 0.85), b=site(0.9, 0.85, examples=30), c=site(0.6, None))
    text = verdict(said)
    assert "federation 80.00 %" in text
    assert "alone 85.00 %: the federation is +5.00 points" in text
    assert text.endswith("at the 2 of 3 sites that were trained alone")
    table = final_tables(said)
    assert table.count("+5.00") == 3  # the task, and the two sites
    assert "-5.00" not in table


def test_who_is_better_off_alone_is_named() -> None:
    text = verdict(final(a=site(0.9, 0.8), b=site(0.7, 0.9)))
    assert "the federation is -5.00 points; alone is better at b" in text


def test_nothing_is_compared_where_nobody_was_trained_alone() -> None:
    said = final(a=site(0.9, None))
    assert verdict(said) == "mean over sites: federation 90.00 %, majority class 50.00 %"
    assert "+" not in final_tables(said)
