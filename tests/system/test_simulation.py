"""`flwr run .` as a newcomer types it: a real local SuperLink, Flower's simulation, Ray's actors."""

from __future__ import annotations

import pytest

from tests.system import federation
from tests.system.conftest import Simulation
from tests.system.processes import Processes

pytestmark = pytest.mark.system


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


@pytest.mark.parametrize(
    ("run_config", "said"),
    [
        (
            {"experiment": "facez"},
            "experiment 'facez' does not exist; there are: faces, har, images, medmnist",
        ),
        (
            {"overrides": "strategy.round=3"},
            "override 'strategy.round': strategy has no 'round'; it has",
        ),
        ({"data-root": "pictures"}, "data-root must be an absolute path, got 'pictures'"),
    ],
    ids=["experiment", "override", "data-root"],
)
def test_a_mistake_ends_the_run_before_any_training(
    local: Processes, run_config: dict[str, str], said: str
) -> None:
    output = local.folder / f"mistake-{next(iter(run_config))}"
    started = local.flwr_run(
        "mistake",
        "local",
        {"output-dir": str(output), **run_config},
        options=["--federation-config", "num-supernodes=3"],
    )
    log = local.finish(started, seconds=90)
    assert said in log, local.logs()
    assert "round 1/" not in log
    assert not output.exists()
