"""The smallest deployment: three hospitals with guards, over real sockets, for one round."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.flower.deployment import SuperLink, start_site, start_supernode
from benchmarks.flower.processes import Processes, free_port
from tests.loopback import simulate
from tests.system import federation
from tests.system.federation import SITES

pytestmark = [pytest.mark.system, pytest.mark.smoke]


def test_a_small_deployment_measures_what_the_app_measures_in_one_process(
    tmp_path: Path, body: Path
) -> None:
    overrides = federation.overrides(body, "strategy.rounds=1")
    output = tmp_path / "output"
    with Processes(tmp_path / "processes", threads=None) as processes:
        superlink = SuperLink(processes)
        superlink.start()
        for index, site in enumerate(SITES):
            port = free_port()
            isolated = ("--isolation", "process")
            start_supernode(processes, f"{site}-node", superlink.fleet, *isolated, port=port)
            place = {"partition-id": index, "num-partitions": len(SITES), "threads": 1}
            start_site(processes, site, port, task=("gender", "pose")[index % 2], **place)
        run_config = {"output-dir": str(output), "overrides": overrides}
        started = processes.flwr_run("run", superlink.name, run_config)
        log = processes.finish(started, seconds=480)
        assert list(output.glob("*/results.json")), processes.logs()
    assert "round 1/1: 3 of 3 sites" in log
    deployed = federation.measured(federation.read_results(output))
    here, _ = simulate(tmp_path / "here", "faces", overrides.split(), sites=len(SITES))
    assert len(deployed) > 50
    assert deployed == federation.measured(here)
