"""`flwr run .` as a newcomer types it: a real local SuperLink, Flower's simulation, Ray's actors."""

from __future__ import annotations

import pytest

from benchmarks.processes import Processes
from tests.system import federation
from tests.system.conftest import Simulation

pytestmark = pytest.mark.system


@pytest.mark.smoke
def test_a_simulation_runs_to_its_results_and_says_what_it_did(simulation: Simulation) -> None:
    told = simulation.results
    assert [record["participants"] for record in told["rounds"]] == [list(federation.SITES)] * 2
    assert told["final"]["sites"].keys() == set(federation.SITES)
    for said in (
        "Layer groups",
        "3 sites",
        "round 1/2: 3 of 3 sites",
        "round 2/2: 3 of 3 sites",
        "mean over sites: federation",
        f"results: {simulation.output / told['run'] / 'results.json'}",
    ):
        assert said in simulation.log, simulation.log


def test_a_mistake_ends_the_run_before_any_training(local: Processes) -> None:
    output = local.folder / "mistake"
    started = local.flwr_run(
        "mistake",
        "local",
        {"experiment": "facez", "output-dir": str(output)},
        options=["--federation-config", "num-supernodes=3"],
    )
    log = local.finish(started, seconds=240)
    assert "experiment 'facez' does not exist; there are: faces, har" in log, local.logs()
    assert "round 1/" not in log
    assert not output.exists()
