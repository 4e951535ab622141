"""pfl-research ends at the average of the plain loop, with and without its evaluation."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks.measure.simulated_sites import (
    PFL,
    PFL_EVALUATED,
    PLAIN,
    Work,
    largest_difference,
    run_case,
    simulator_of,
    write_data,
)
from benchmarks.peers.environment import PEERS, Found
from benchmarks.simulate import TOLERANCE

PYTHON = "FEDSTRATA_PFL_PYTHON"  # the Python of an environment with benchmarks/requirements-pfl.txt


@pytest.mark.skipif(PYTHON not in os.environ, reason=f"{PYTHON} names no environment with pfl")
def test_it_ends_at_the_average_of_the_plain_loop(tmp_path: Path) -> None:
    write_data(tmp_path / "data", 4)
    work = Work(tmp_path / "data", 4, 2, 3)
    python = Path(os.environ[PYTHON])
    peers = {"pfl": Found(python, PEERS["pfl"].versions(python))}
    runs = {}
    for number, case in enumerate((PLAIN, PFL, PFL_EVALUATED)):
        with simulator_of(case, tmp_path / f"home-{number}", 1, peers) as simulator:
            runs[case] = run_case(simulator, case, work, tmp_path / f"output-{number}")
    for case in (PFL, PFL_EVALUATED):
        assert largest_difference(runs[case], runs[PLAIN]) <= TOLERANCE
