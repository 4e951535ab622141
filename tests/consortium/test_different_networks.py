"""The testbed's hospitals with three networks: their run is played here, without containers."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest
import yaml
from flwr.app import Message

from site_guard.answers import AnswerFilter
from site_guard.own_model import own_plan
from site_guard.plan_rules import read_plan
from tests.helpers.different_networks import FEW, hospitals, overrides
from tests.loopback import LoopbackGrid, simulate

DOCKER = Path(__file__).resolve().parents[2] / "docker"
FAKE = """#!/bin/sh
case "$*" in
  *"consortium found"*) mkdir -p "$CONSORTIUM"/us/public "$CONSORTIUM"/us/hospitals/hospital-c
    for x in a b c; do mkdir -p "$CONSORTIUM"/at/hospital-$x; done
    echo KEY > "$CONSORTIUM"/us/public/bundle.pub
    echo "$*" > "$CONSORTIUM"/asked ;;
  *"fedstrata sign"*) echo SIGNATURE ;;
  *State.Status*) echo exited ;;
  *State.ExitCode*) echo 0 ;;
  *"ps --all --quiet driver"*) [ ! -f "$CONSORTIUM"/driven ] || echo ID ;;
  *"force-recreate driver"*) touch "$CONSORTIUM"/driven ;;
esac
"""


def test_each_hospital_trains_its_own_network_and_sends_class_means_alone(tmp_path: Path) -> None:
    guards, nodes, left = {}, {}, set()
    for number, (name, settings) in enumerate(hospitals().items()):
        kept = {"state": str(tmp_path / name), "cache": str(tmp_path / "cache")}
        here = msgspec.structs.replace(settings, **kept)
        nodes[100 + number] = here.node_config()
        guards[100 + number] = AnswerFilter(here)

    def through_the_guard(message: Message, reply: Message) -> Message:
        message.metadata.__dict__["_run_id"] = 1
        guard = guards[message.metadata.dst_node_id]
        _, plan = read_plan(message)
        guard.settings.plan.check_plan(own_plan(plan, guard.settings))  # its network too is allowed
        answer = guard.filter_answer(message, reply, guard.check_order(message))
        if answer.has_content():
            left.update(*(record.keys() for record in answer.content.array_records.values()))
        return answer

    run = [*overrides(), *FEW.split(), "baselines.alone=false", "baselines.pooled=false"]
    grid = LoopbackGrid(nodes, {"output-dir": str(tmp_path)}, through_the_guard)
    results, _ = simulate(tmp_path, "faces", run, grid=grid)
    models = {name: site["model"] for name, site in results["sites"].items()}
    assert models == {name: settings.model for name, settings in hospitals().items()}
    assert len(set(models.values())) == 3
    assert results["participation"] == {name: ["took part"] * 2 for name in models}
    assert left == {"prototypes"}


def test_the_run_offers_what_the_hospitals_name_and_waits_for_all() -> None:
    offered = {
        word.partition("=")[0].partition(".")[2] for word in overrides() if "models." in word
    }
    assert {settings.model for settings in hospitals().values()} == offered
    assert f"strategy.min_sites={len(hospitals())}" in overrides()


@pytest.fixture
def testbed(tmp_path: Path) -> Path:
    """Return a copy of docker/ beside a `docker` that only notes what it is asked."""
    shutil.copytree(DOCKER, tmp_path / "docker", ignore=shutil.ignore_patterns("consortium"))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "docker").write_text(FAKE)
    (tmp_path / "bin" / "docker").chmod(0o755)
    return tmp_path / "docker"


def called(testbed: Path, *words: str) -> subprocess.CompletedProcess[str]:
    path = f"{testbed.parent / 'bin'}{os.pathsep}{os.environ['PATH']}"
    user = f"{os.getuid()}:{os.getgid()}"
    given = {"PATH": path, "BASE": "a@sha256:1", "CONSORTIUM": str(testbed / "consortium")}
    return subprocess.run(
        [str(testbed / "testbed"), *words],
        env={**given, "FEDSTRATA_USER": user},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("option", "tasks", "model"),
    [
        ([], "hospital-a:gender\nhospital-b:pose\nhospital-c:pose", None),
        (["--networks"], "hospital-a:gender\nhospital-b:gender\nhospital-c:gender", "edge"),
    ],
)
def test_the_testbed_gives_each_hospital_its_settings_and_each_run_its_overrides(
    testbed: Path, option: list[str], tasks: str, model: str | None
) -> None:
    done = called(testbed, "up", *option)
    assert done.returncode == 0, done.stderr
    made = testbed / "consortium"
    assert f"TASKS={tasks}" in (made / "asked").read_text()
    settings = yaml.safe_load((made / "at" / "hospital-c" / "site.yaml").read_text())
    assert (settings.get("model"), settings["bundles"]) == (model, {"signed-by": ["KEY"]})
    given = (made / "operator" / "driver").read_text()
    assert ("method=fedproto" in given) == bool(option)
    assert "strategy.min_sites=3" in given

    assert called(testbed, "run").returncode == 0  # another run on what is up
    assert ("method=fedproto" in (made / "operator" / "driver").read_text()) == bool(option)
    other = called(testbed, "up", *([] if option else ["--networks"]))
    assert other.returncode == 1
    assert "docker/testbed down" in other.stderr
