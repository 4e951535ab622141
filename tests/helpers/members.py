"""Members of a run, made without a grid."""

from __future__ import annotations

from typing import Any

from fedstrata.protocol.answers import RoundReport, SiteReport
from fedstrata.protocol.numerics import Numerics
from server_app.sites.members import Member

METRIC = {"examples": 4.0, "loss": 0.7, "accuracy": 0.5, "balanced_accuracy": 0.5, "auroc": None}


def site_report(site: str = "north", task: str = "grade", **changes: Any) -> SiteReport:
    """Return a report of a site with 20 training examples, 4 for validation and 4 for the test."""
    values: dict[str, Any] = {
        "site": site,
        "task": task,
        "classes": ("low", "high"),
        "input_shape": (6,),
        "examples": {"train": 20, "validation": 4, "test": 4},
        "baseline": {"accuracy": 0.5},
        "fingerprints": {},
        "schemas": {},
        "holds_weights": True,
        "device": "cpu",
        "versions": {},
        "error": "",
    }
    return SiteReport(**{**values, **changes})


def member(
    site: str = "north",
    task: str = "grade",
    node_id: int = 7,
    *,
    in_cohort: bool = False,
    **changes: Any,
) -> Member:
    """Return a member that reports as `site_report` says."""
    return Member(node_id, site_report(site, task, **changes), in_cohort)


def round_report(site: str = "north", round_number: int = 3, **changes: Any) -> RoundReport:
    """Return a report of a whole round of five steps over 20 examples."""
    values: dict[str, Any] = {
        "site": site,
        "round": round_number,
        "examples": 20,
        "steps": 5,
        "planned": 5,
        "loss": 0.7,
        "seconds": 1.0,
        "metrics": {"test": METRIC, "validation": METRIC},
        "error": "",
        "numerics": Numerics(1),
    }
    return RoundReport(**{**values, **changes})
