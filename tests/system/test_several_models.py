"""Two hospitals with different networks, over real sockets, each of which names its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.flower.deployment import SuperLink, start_supernode, start_warm_site
from benchmarks.flower.processes import Processes
from tests.loopback import simulate
from tests.system import federation

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

RUN = (
    *(
        "groups=all_common",
        "model.head=[8]",
        "weights=none",
        "data.size=28",
        "data.train=24",
        "data.validation=8",
    ),
    *("data.test=24", "data.identities=12", "data.tasks=[gender]", "train.batch_size=8"),
    *("strategy.min_sites=2", "strategy.rounds=1", "baselines.alone=false"),
    *("baselines.pooled=false", "method=lg_fedavg", "method.common=[head.out]"),
    *("+model@models.wide=small_cnn", "+model@models.tiny=mlp", "models.tiny.hidden=[4]"),
)
MODELS = {"site-00": "wide", "site-01": "tiny"}


def test_each_hospital_trains_the_network_that_it_names(tmp_path: Path) -> None:
    with Processes(tmp_path / "deployment", threads=None) as processes:
        superlink = SuperLink(processes)
        superlink.start()
        place: dict[str, Any] = {"num-partitions": 2, "threads": 1}
        rules = {"models": ["small_cnn", "mlp"]}
        # One with a guard and site.yaml, one that is a plain SuperNode with a node config.
        start_warm_site(
            *(processes, "site-00", superlink.fleet),
            **{"task": "gender", "plan": rules, "partition-id": 0, "model": "wide", **place},
        )
        folder = processes.folder / "site-01"
        start_supernode(
            *(processes, "site-01", superlink.fleet),
            node_config={
                **{"site": "site-01", "partition-id": 1, "model": "tiny", **place},
                **{"state-dir": folder / "state", "cache-dir": folder / "cache"},
            },
        )
        output = processes.folder / "output"
        config = {"output-dir": str(output), "name": "two", "overrides": " ".join(RUN)}
        started = processes.flwr_run("two", superlink.name, config)
        processes.finish(started, seconds=480)
        assert (output / "two" / "results.json").exists(), processes.logs()
        results = federation.read_results(output, "two")
    assert {name: site["model"] for name, site in results["sites"].items()} == MODELS
    assert results["rounds"][0]["participants"] == list(MODELS)
    assert set(results["partition"]) == {"gender/tiny", "gender/wide"}
    # As in a simulation in which they have the same networks.
    alike = simulate(tmp_path, "faces", [*RUN, "data.models={site-00:wide,site-01:tiny}"], sites=2)[
        0
    ]
    for name, site in results["final"]["sites"].items():
        assert site["accuracy"] == alike["final"]["sites"][name]["accuracy"]
