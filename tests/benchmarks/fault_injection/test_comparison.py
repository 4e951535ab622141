"""A run with faults is compared with the undisturbed one where no contribution was missed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from benchmarks.fault_injection.comparison import Outcome, compare, final_metrics
from benchmarks.fault_injection.plan import SITES


def results(sites: tuple[str, ...] = SITES, accuracy: float = 0.5) -> dict[str, Any]:
    final = {"sites": {site: {"accuracy": accuracy, "loss": 1.0, "seconds": 9} for site in SITES}}
    return {"rounds": [{"round": 1, "sites": {site: {} for site in sites}}], "final": final}


QUIET = Outcome(results(), {"a": b"1"}, {site: {"bn2": site.encode()} for site in SITES}, [], [])


def test_a_run_like_the_undisturbed_one_is_not_broken() -> None:
    assert compare(QUIET, QUIET) == []


def test_every_difference_is_reported() -> None:
    other = replace(
        QUIET,
        results=results(accuracy=0.6),
        state={"a": b"2"},
        personal={site: {"bn2": b"same"} for site in SITES},
    )
    assert compare(QUIET, other) == [
        *(f"{site} has another site's personal layers" for site in SITES),
        "no contribution was missed, and the final layers differ",
        "no contribution was missed, and personal layers differ",
        "no contribution was missed, and the metrics differ",
    ]


def test_a_run_that_missed_a_site_may_have_other_layers() -> None:
    other = replace(QUIET, results=results(SITES[:2]), state={"a": b"2"})
    assert not other.complete
    assert compare(QUIET, other) == []


def test_a_run_without_an_end_is_reported_as_that() -> None:
    other = replace(QUIET, results={**results(), "final": None}, broken=["it did not end"])
    assert compare(QUIET, other) == ["it did not end"]


def test_metrics_are_those_that_a_run_repeats() -> None:
    assert final_metrics(results())["site-00"] == {"accuracy": 0.5, "loss": 1.0}
