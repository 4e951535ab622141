"""Runs that several tests of this folder look at, for processes take long to start."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks.flower.processes import PROGRAMS, Processes
from tests.system import federation


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest test first: otherwise one worker runs it when the others have ended."""
    items.sort(key=lambda item: item.path.name != "test_main_job.py")


@dataclass
class Simulation:
    """A finished run on this machine: its log, its output folder and its results."""

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
    with Processes(tmp_path_factory.mktemp("simulation"), threads=None) as processes:
        yield processes


@pytest.fixture(scope="session")
def simulation(local: Processes, body: Path) -> Simulation:
    """Run the small federation by `flwr run`, in Flower's local simulation."""
    output = local.folder / "output"
    started = local.flwr_run(
        "simulation",
        "local",
        {"output-dir": str(output), "overrides": federation.overrides(body)},
        options=["--federation-config", "num-supernodes=3"],
    )
    log = local.finish(started, seconds=480)
    if not list(output.glob("*/results.json")):
        raise AssertionError(f"no results.json\n{local.logs()}")
    return Simulation(local, log, output, federation.read_results(output))


@pytest.fixture(scope="session")
def engine(local: Processes, body: Path) -> Simulation:
    """Run the small federation by `fedstrata run`, in processes of its own."""
    output = local.folder / "engine"
    words = ["run", f"output-dir={output}", "--nodes", "3", *federation.overrides(body).split()]
    started = local.start("engine", [str(PROGRAMS / "fedstrata"), *words])
    log = local.finish(started, seconds=300)
    return Simulation(local, log, output, federation.read_results(output))
