"""`flwr run .` as a newcomer types it: a real local SuperLink, Flower's simulation, Ray's actors."""

from __future__ import annotations

import pytest

from benchmarks.flower.processes import Processes
from tests.system import federation
from tests.system.conftest import Simulation

pytestmark = pytest.mark.system


@pytest.mark.smoke
def test_a_simulation_writes_its_results_and_logs_its_rounds(simulation: Simulation) -> None:
    results = simulation.results
    assert [record["participants"] for record in results["rounds"]] == [list(federation.SITES)] * 2
    assert results["final"]["sites"].keys() == set(federation.SITES)
    for line in (
        "Layer groups",
        "3 sites",
        "round 1/2: 3 of 3 sites",
        "round 2/2: 3 of 3 sites",
        "mean over the sites, each site alike: ",
        f"results: {simulation.output / results['run'] / 'results.json'}",
    ):
        assert line in simulation.log, simulation.log


def test_a_mistake_ends_the_run_before_any_training(local: Processes) -> None:
    output = local.folder / "mistake"
    started = local.flwr_run(
        "mistake",
        "local",
        {"experiment": "facez", "output-dir": str(output)},
        options=["--federation-config", "num-supernodes=3"],
    )
    log = local.finish(started, seconds=240)
    assert "experiment 'facez' does not exist; there are: faces, faces_paper" in log, local.logs()
    assert "round 1/" not in log
    assert not output.exists()
