"""What the benchmark of faults writes down."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.fault_injection.comparison import Outcome
from benchmarks.fault_injection.plan import SITES, Fault
from benchmarks.faults import main, notes, tally

RESULTS: dict[str, Any] = {"rounds": [{"round": 1, "sites": {site: {} for site in SITES}}]}
FAULTS = [
    Fault("site", SITES[0], "kill", "idle", 0.0),
    Fault("site", SITES[1], "kill", "training", 0.0),
    Fault("superlink", "", "cut", "idle", 0.0),
]
OUTCOME = Outcome(RESULTS, {}, {}, [], FAULTS)


def test_a_broken_run_does_not_read_as_an_undisturbed_one() -> None:
    (whole,) = notes([OUTCOME], [])
    assert whole.startswith("3 faults in 1 runs of 6 rounds; in 1 runs no contribution was missed")
    assert whole.endswith("of the undisturbed run, bit for bit.")
    first, second = notes([OUTCOME], ["the metrics differ"])
    assert first.endswith("in 1 runs no contribution was missed.")
    assert second == "BROKEN: the metrics differ"


def test_the_table_counts_each_kind_at_each_component() -> None:
    rows = tally([OUTCOME, OUTCOME]).rows
    assert rows["site"] == ("4", "0", "0")
    assert rows["superlink"] == ("0", "0", "2")
    assert rows["app"] == ("0", "0", "0")


def test_there_are_no_options_that_would_change_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    assert "--output" in shown
    assert "--work" not in shown
    assert "--seeds" not in shown
