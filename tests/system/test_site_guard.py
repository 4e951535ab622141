"""Sites with a guard around the app: the same numbers, one warm process, and refusals."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from benchmarks.flower.deployment import SuperLink, start_site, start_supernode
from benchmarks.flower.processes import REPOSITORY, Process, Processes, free_port, listening
from tests.system import federation
from tests.system.federation import SITES

pytestmark = [pytest.mark.system, pytest.mark.timeout(1200)]

STARTED = re.compile(r"the app's process (\d+) is started")
SMUGGLING = """

def _reaches(port):
    import socket

    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except PermissionError:
        return False
    return True


from flwr.common.logger import log as _log
from fedstrata.protocol import payload as _payload
_honest_answer = answer


def answer(message, report, layers):
    if report.site == "site-00":
        _log(20, "reaches its SuperNode: %s", _reaches(PORT))
    if report.site == "site-01" and layers:
        import torch

        layers = {**layers, "personal": _payload.encode({"head.out.weight": torch.ones(2, 8)})}
    return _honest_answer(message, report, layers)
"""


@dataclass
class Hospitals:
    """A SuperLink, and per site a SuperNode with the site's own process beside it."""

    processes: Processes
    superlink: SuperLink
    body: Path
    guards: dict[str, Process] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)

    @property
    def output(self) -> Path:
        return self.processes.folder / "output"

    def start(self, site: str) -> None:
        """Start the SuperNode of a site, and its own process beside it."""
        port, index = free_port(), SITES.index(site)
        self.ports[site] = port
        fleet, options = self.superlink.fleet, ("--isolation", "process")
        node = start_supernode(self.processes, f"{site}-node", fleet, *options, port=port)
        self.processes.wait_for(
            f"{site} listens", lambda: listening(port), seconds=180, watch=[node]
        )
        place: dict[str, Any] = {"partition-id": index, "num-partitions": len(SITES), "threads": 1}
        place["plan"] = {"cross-site": True}
        task = ("gender", "pose")[index % 2]
        self.guards[site] = start_site(self.processes, site, port, task=task, **place)

    def run(self, name: str, *more: str, app: Path = REPOSITORY) -> tuple[str, dict[str, Any]]:
        """Play a run to its end; return its log and its results."""
        old = {path.parent.name for path in self.output.glob("*/run.json")}
        overrides = federation.overrides(self.body, *more)
        pairs = f'output-dir="{self.output}" overrides="{overrides}"'
        command = ["flwr", "run", str(app), self.superlink.name, "--stream", "-c", pairs]
        log = self.processes.finish(self.processes.start(name, command), seconds=600)
        (new,) = {path.parent.name for path in self.output.glob("*/run.json")} - old
        return log, federation.read_results(self.output, new)


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory, body: Path) -> Iterator[Hospitals]:
    with Processes(tmp_path_factory.mktemp("hospitals"), threads=None) as processes:
        superlink = SuperLink(processes)
        superlink.start()
        made = Hospitals(processes, superlink, body)
        for site in SITES:
            made.start(site)
        yield made


@pytest.fixture(scope="module")
def honest(hospitals: Hospitals) -> dict[str, Any]:
    return hospitals.run("honest", "cross_site=updates")[1]


def test_one_process_answers_every_message(honest: dict[str, Any], hospitals: Hospitals) -> None:
    for site in SITES:
        assert honest["final"]["sites"][site]["numerics"]["threads"] == 1  # the filter lets it out
        assert len(STARTED.findall(hospitals.guards[site].text)) == 1


def test_layers_go_to_the_other_site_of_the_task_alone(
    honest: dict[str, Any], hospitals: Hospitals
) -> None:
    found = honest["cross_site"]
    assert (found["missing"], found["left_out"]) == ([], {})
    assert {model: sorted(on) for model, on in found["tasks"]["gender"]["models"].items()} == {
        "site-00": ["site-00", "site-02"],
        "site-02": ["site-00", "site-02"],
    }
    log = next((hospitals.processes.folder / "site-00").rglob("audit.jsonl"))
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    measured = [line["fields"]["of"] for line in lines if "of" in line["fields"]]
    assert measured == ["site-00", "site-00", "site-02"]
    left = [line["fields"] for line in lines if line["event"] == "left"]
    (crossed,) = [each for each in left if each["kind"] == "train.cross"]
    assert crossed["layers"].keys() == {"common", "task"}


def test_a_process_that_died_is_started_again(honest: dict[str, Any], hospitals: Hospitals) -> None:
    guard = hospitals.guards["site-02"]
    os.kill(int(STARTED.findall(guard.text)[-1]), signal.SIGKILL)
    _, results = hospitals.run("after-a-crash")
    assert len(STARTED.findall(guard.text)) == 2
    assert federation.measured(results) == federation.measured(honest)


def test_a_bundle_that_sends_personal_layers_is_refused(
    honest: dict[str, Any], hospitals: Hospitals, tmp_path: Path
) -> None:
    app = tmp_path / "app"
    for folder in ("fedstrata", "server_app", "client_app", "strategies", "models", "conf"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / folder, app / folder, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, app / name)
    code = app / "client_app" / "app.py"
    port = hospitals.ports["site-00"]
    assert listening(port)
    code.write_text(code.read_text() + SMUGGLING.replace("PORT", str(port)))
    _, results = hospitals.run("smuggling", app=app)
    for record in results["rounds"]:
        assert set(record["refused"]) == {"site-01"}
        assert "'personal', and this site shares common and task" in record["refused"]["site-01"]
    assert "reaches its SuperNode: False" in hospitals.guards["site-00"].text
    assert "reaches its SuperNode: True" not in hospitals.guards["site-00"].text
    assert "refuses train" in hospitals.guards["site-01"].text
    assert len(STARTED.findall(hospitals.guards["site-00"].text)) == 2  # another bundle
