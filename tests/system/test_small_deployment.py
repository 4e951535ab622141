"""The smallest deployment: three hospitals with guards, over real sockets, for one round."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks.flower.deployment import SuperLink, start_site, start_supernode
from benchmarks.flower.processes import Processes, free_port
from tests.loopback import simulate
from tests.system import federation
from tests.system.federation import SITES

pytestmark = [pytest.mark.system, pytest.mark.smoke]
WARDS = {"site-00": "ab", "site-01": "bc", "site-02": "ab"}  # the categories at each hospital
RULES = {"models": ["small_cnn", "linear"], "categories": ["ward"]}
KNOWLEDGE = ["means", "prototypes", "logits", "label_counts", "projections"]  # that hospitals share
SENT = {  # the groups that leave a hospital in a round, by method
    "ditto": {"common"},
    "dbe": {"common"},
    "fml": {"common", "task"},
    "fedproto": {"prototypes"},
    "fedgh": {"prototypes"},
    "fedtgp": {"prototypes"},
    "fd": {"logits"},
    "fedgen": {"task", "label_counts"},
    "fedktl": {"projections"},
}
MADE = {  # what the server makes for them
    "fedgh": "global_head",
    "fedtgp": "learned_prototypes",
    "fedgen": "generator",
    "fedktl": "pictures",
}


@dataclass
class Deployment:
    """A SuperLink, and three hospitals with a table each beside the drawn faces."""

    processes: Processes
    superlink: SuperLink

    def run(self, name: str, overrides: str, **more: str) -> tuple[str, dict[str, Any]]:
        """Play a run to its end; return its log and its results."""
        run_config = {"output-dir": str(self.output), "name": name, "overrides": overrides, **more}
        started = self.processes.flwr_run(name, self.superlink.name, run_config)
        log = self.processes.finish(started, seconds=480)
        assert (self.output / name / "results.json").exists(), self.processes.logs()
        return log, federation.read_results(self.output, name)

    @property
    def output(self) -> Path:
        return self.processes.folder / "output"


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with Processes(tmp_path_factory.mktemp("small"), threads=None) as processes:
        superlink = SuperLink(processes)
        superlink.start()
        for index, site in enumerate(SITES):
            port = free_port()
            isolated = ("--isolation", "process")
            start_supernode(processes, f"{site}-node", superlink.fleet, *isolated, port=port)
            place: dict[str, Any] = {"partition-id": index, "num-partitions": len(SITES)}
            data = str(write_table(processes.folder / "tables" / f"{site}.csv", WARDS[site]))
            task = ("gender", "pose")[index % 2]
            place |= {"share": ["common", "task", *KNOWLEDGE], "plan": RULES}
            start_site(processes, site, port, task=task, threads=1, data=data, **place)
        yield Deployment(processes, superlink)


def write_table(path: Path, wards: str) -> Path:
    """Write a hospital's table: a number, a column of categories, two questions.

    In this rehearsal the site has a third of it.
    """
    path.parent.mkdir(exist_ok=True)
    splits = ["test"] * 40 + ["validation"] * 40 + ["train"] * 160
    rows = [
        f"{n},{wards[n % 3 % len(wards)]},{'mf'[n % 2]},{'lr'[n // 2 % 2]},{split}"
        for n, split in enumerate(splits)
    ]
    path.write_text("\n".join(["age,ward,gender,pose,split", *rows]))
    return path


def test_a_small_deployment_measures_what_the_app_measures_in_one_process(
    deployment: Deployment, tmp_path: Path, body: Path
) -> None:
    overrides = federation.overrides(body, "strategy.rounds=1")
    log, results = deployment.run("faces", overrides)
    assert "round 1/1: 3 of 3 sites" in log
    deployed = federation.measured(results)
    here, _ = simulate(tmp_path / "here", "faces", overrides.split(), sites=len(SITES))
    assert len(deployed) > 50
    assert deployed == federation.measured(here)


@pytest.fixture(scope="module")
def played(deployment: Deployment, body: Path) -> tuple[str, list[str]]:
    """Play all methods of `SENT`, one after the other; return the log, and the overrides of a run."""
    overrides = federation.overrides(body, "strategy.rounds=2", "baselines.alone=false")
    started = deployment.processes.flwr_run(
        "methods",
        deployment.superlink.name,
        {
            "output-dir": str(deployment.output),
            "name": "methods",
            "overrides": f"{overrides} method={','.join(SENT)}",
        },
    )
    return deployment.processes.finish(started, seconds=900), overrides.split()


@pytest.mark.parametrize("method", SENT)
def test_a_second_model_stays_and_knowledge_travels_where_it_is_shared(
    deployment: Deployment, played: tuple[str, list[str]], tmp_path: Path, method: str
) -> None:
    log, overrides = played
    assert log.count("before round 1: means of 3 sites") == 1  # of dbe
    results = federation.read_results(deployment.output, f"methods_method-{method}")
    record = results["rounds"][1]
    assert set(record["bytes_up"]) == SENT[method]
    assert method not in MADE or MADE[method] in record["bytes_down"]
    assert record["refused"] == {}
    here, _ = simulate(tmp_path, "faces", [*overrides, f"method={method}"], sites=len(SITES))
    assert federation.measured(results) == federation.measured(here)


def test_hospitals_name_their_categories_and_get_those_of_all(deployment: Deployment) -> None:
    overrides = (
        "data.tasks=[gender,pose] data.classes={gender:[f,m],pose:[l,r]} data.features=[age,ward] "
        "data.categories={ward:agreed} strategy.rounds=1 strategy.min_sites=3 baselines.alone=false"
    )
    log, results = deployment.run("tables", overrides, experiment="tabular")
    assert "categories for all sites, from site-00, site-01, site-02: ward 3" in log
    assert "round 1/1: 3 of 3 sites" in log
    begun = json.loads((deployment.output / "tables" / "run.json").read_text())
    assert begun["categories"] == {"ward": ["a", "b", "c"]}
    # The age, and each ward: also those that a hospital does not have.
    assert [site["input_shape"] for site in results["sites"].values()] == [[4]] * 3
