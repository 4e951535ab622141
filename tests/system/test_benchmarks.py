"""Each benchmark over real processes runs, as `--quick` does.

That both sides compute the same: here for simulated sites, for deployed ones in
tests/benchmarks/test_rounds.py.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.flower.processes import REPOSITORY, clean_environment
from benchmarks.measure.simulated_sites import LOCAL, PLAIN, STOCK

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]


def quick(name: str, folder: Path, *options: str) -> dict[str, Any]:
    """Run ``python -m benchmarks.<name> --quick`` and return what it wrote."""
    command = [sys.executable, "-m", f"benchmarks.{name}", "--quick", "--output", str(folder)]
    finished = subprocess.run(
        [*command, *options],
        cwd=REPOSITORY,
        env=clean_environment(folder / "home", folder / "flwr", threads=None),
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout[-4000:] + finished.stderr[-4000:]
    (path,) = folder.glob("*.json")
    written: dict[str, Any] = json.loads(path.read_text())
    assert path.with_suffix(".md").exists()
    return written


def test_simulated_sites_end_at_the_average_of_stock_flowers(tmp_path: Path) -> None:
    (table,) = quick("simulate", tmp_path)["tables"]
    rows = table["rows"]
    assert set(rows) == {f"10, {case}" for case in (LOCAL, STOCK, PLAIN)}
    for case in (LOCAL, PLAIN):
        assert float(rows[f"10, {case}"]["average apart"]) < 1e-5


def test_a_deployed_round_is_timed_beside_stock_flowers(tmp_path: Path) -> None:
    timings = quick("rounds", tmp_path)["timings"]
    assert len(timings) == 2
    assert all(0 < worked < seconds for ((seconds, worked),) in timings.values())


def test_coded_layers_take_fewer_bytes_than_exact_ones_and_those_than_stock_flowers(
    tmp_path: Path,
) -> None:
    counted = quick("wire", tmp_path)["bytes"]
    stock, exact, coded = (up + down for up, down, _ in counted.values())
    assert coded < exact < stock
    assert all(0 < layers < up + down for up, down, layers in counted.values())


def test_starts_are_timed_with_runs(tmp_path: Path) -> None:
    runs = quick("startup", tmp_path)["runs"]
    assert len(runs) == 2
    assert all(seconds > 0 for (seconds,) in runs.values())


def test_the_caches_dtypes_are_played_from_the_same_start(tmp_path: Path) -> None:
    quick("cache", tmp_path, "--work", str(tmp_path / "work"))
    results = [json.loads(p.read_text()) for p in tmp_path.glob("work/runs/*/*/results.json")]
    assert {each["config"]["train"]["feature_dtype"] for each in results} == {"float16", "float32"}
    assert len({each["weights"]["content_hash"] for each in results}) == 1
