"""Bytes of a site and round are those after the first round, and the runs are in order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest

from benchmarks.accuracy.wire_setups import quick
from benchmarks.flower.processes import Processes
from benchmarks.flower.proxy import DOWN, UP, Meter
from benchmarks.flower.round_ends import RoundEnds
from benchmarks.measure.site_bytes import MeteredDeployment, SiteBytes, site_bytes


def meters() -> list[Meter]:
    made = [Meter(0), Meter(0)]
    for meter in made:
        meter.passed += [(UP, 1.0, 999), (UP, 11.0, 10), (DOWN, 12.0, 40), (UP, 25.0, 30)]
        meter.passed += [(DOWN, 31.0, 999)]
    return made


def test_a_round_is_the_mean_over_sites_and_rounds_after_the_first() -> None:
    assert site_bytes(meters(), [10.0, 20.0, 30.0], [999, 60, 80]) == SiteBytes(20.0, 20.0, 35.0)
    assert site_bytes(meters(), [30.0], [60]) == SiteBytes(1039.0, 40.0, 30.0)
    assert SiteBytes(1.0, 2.0, 3.0).both == 3.0


class Logs:
    def logs(self) -> str:
        return "why"


LOGS = cast(Processes, Logs())


@pytest.fixture
def deployment(tmp_path: Path) -> MeteredDeployment:
    return MeteredDeployment(quick(Path("/har.npz")), tmp_path, 2)


def run(folder: Path, accuracy: float, size: int, *ended: float) -> dict[str, float]:
    """Write the results of a run of one site, and return when its rounds ended."""
    folder.mkdir()
    record: dict[str, Any] = {"participants": ["a"], "bytes_up": {"common": size}}
    record["bytes_down"] = {"common": size}
    results = {
        "rounds": [{"round": n + 1, **record} for n in range(len(ended))],
        "final": {"sites": {"a": {"accuracy": accuracy}}, "mean": {"accuracy": accuracy}},
    }
    (folder / "results.json").write_text(json.dumps(results))
    return {f"round-{n + 1:06d}": when for n, when in enumerate(ended)}


def test_runs_are_those_of_the_cases_in_the_order_of_their_time(
    deployment: MeteredDeployment, tmp_path: Path
) -> None:
    ends: RoundEnds = {
        tmp_path / "a": run(tmp_path / "a", 0.8, 7, 20.0, 30.0),
        tmp_path / "b": run(tmp_path / "b", 0.5, 9, 5.0, 12.0),
    }
    found = deployment._count(ends, meters()[:1], LOGS)
    exact, coded = (case.name for case in deployment.setup.cases)
    assert found.accuracy == {exact: 0.5, coded: 0.8}
    assert found.cases == {exact: SiteBytes(10, 40, 18), coded: SiteBytes(30, 0, 14)}
    assert found.before == 999


def test_a_run_that_is_missing_ends_the_benchmark(
    deployment: MeteredDeployment, tmp_path: Path
) -> None:
    ends: RoundEnds = {tmp_path / "a": run(tmp_path / "a", 0.8, 7, 20.0, 30.0)}
    with pytest.raises(SystemExit, match=r"1 runs of (.|\n)*why"):
        deployment._count(ends, meters()[:1], LOGS)
