"""Processes are dear to start: what several tests of this folder look at is run once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks.flower import ATTEMPTS, RAY_DID_NOT_START
from benchmarks.processes import Processes
from tests.system import federation

# Ray forks its daemons in a process that has other threads at work; on a busy machine one hangs
# now and then before it has begun. It is tried again: what is tested here is not Ray.
__all__ = ["ATTEMPTS", "RAY_DID_NOT_START"]


@dataclass
class Simulation:
    """A finished run of `flwr run . --stream`: its log, its output folder and its results."""

    processes: Processes
    log: str
    output: Path
    results: dict[str, Any]


@pytest.fixture(scope="session")
def body(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of a pre-trained body, for `weights=file`."""
    path = tmp_path_factory.mktemp("body") / "body.safetensors"
    federation.pretrained(path)
    return path


@pytest.fixture(scope="session")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """Return processes of which `flwr run .` starts a SuperLink of its own, on a free port."""
    with Processes(tmp_path_factory.mktemp("simulation")) as processes:
        yield processes


@pytest.fixture(scope="session")
def simulation(local: Processes, body: Path) -> Simulation:
    """Run the small federation in Flower's local simulation."""
    output = local.folder / "output"
    for attempt in range(1, ATTEMPTS + 1):
        started = local.flwr_run(
            "simulation",
            "local",
            {"output-dir": str(output), "overrides": federation.overrides(body)},
            options=["--federation-config", "num-supernodes=3"],
        )
        log = local.finish(started, seconds=180)
        if list(output.glob("*/results.json")):
            return Simulation(local, log, output, federation.results(output))
        if attempt == ATTEMPTS or not any(said in log for said in RAY_DID_NOT_START):
            break
    raise AssertionError(f"no results.json\n{local.logs()}")
