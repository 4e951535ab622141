"""A seeded dozen of faults on real containers: killed, paused and cut off, a run ends as if undisturbed.

Every part of the testbed meets every kind of fault once, in three runs of four faults; which
hospital, when and in what order is by a fixed seed. Each round waits for all three hospitals, so
that no contribution is missed, and what is kept at the end is the same to the last bit.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.fault_injection.comparison import final_metrics
from benchmarks.fault_injection.plan import KINDS
from tests.containers.testbed import (
    APP_USER,
    ROOT,
    SCRIPT,
    SMALL,
    docker,
    inside,
    results_in,
    testbed,
)

pytestmark = [pytest.mark.containers, pytest.mark.timeout(7200)]

SEED = 1
ROUNDS = 12
FAULTS_A_RUN = 4
AWAY = 8.0  # seconds of a pause or a cut
PARTS = ("superlink", "driver", "node", "app")
HOSPITALS = {f"hospital-{letter}": letter for letter in "abc"}
OVERRIDES = SMALL.replace("strategy.rounds=3", f"strategy.rounds={ROUNDS}") + (
    " strategy.minimum.common=3 strategy.deadline=60 baselines.alone=false seed=7"
)
TOLD = ROOT / "docker" / "consortium" / "operator" / "driver"
DIGEST = """
import hashlib, pathlib, sys
from safetensors.numpy import load_file
path = sorted(pathlib.Path(sys.argv[1]).glob("round-*.safetensors"))[-1]
digest = hashlib.sha256()
for name, tensor in sorted(load_file(path).items()):
    digest.update(f"{name} {tensor.dtype} {tensor.shape}".encode() + tensor.tobytes())
print(path.name, digest.hexdigest())
"""


@dataclass(frozen=True)
class Fault:
    """What happens to which service, and how long after a round."""

    service: str
    kind: str
    after: float

    @property
    def container(self) -> str:
        return f"fedstrata-{self.service}-1"

    @property
    def networks(self) -> list[str]:
        """What a cut takes away: the line out, or the one to the node."""
        if self.service == "superlink":
            return [f"line-{letter}" for letter in "abc"]
        if self.service == "driver":
            return ["operator"]
        letter, _, part = self.service.partition("-")
        return [f"line-{letter}" if part == "node" else f"inside-{letter}"]


def plan() -> list[Fault]:
    """Return every kind of fault at every part, in a seeded order."""
    generator = np.random.default_rng(SEED)
    every = [(part, kind) for part in PARTS for kind in KINDS]
    faults = []
    for index in generator.permutation(len(every)):
        part, kind = every[index]
        letter = generator.choice(list("abc"))
        service = f"{letter}-{part}" if part in ("node", "app") else part
        faults.append(Fault(service, kind, float(generator.uniform(0, 2))))
    return faults


def inject(fault: Fault) -> None:
    """Let a fault happen, and wait until what it hit is there again."""
    container = fault.container
    if fault.kind == "kill":
        before = state(container)["StartedAt"]
        # All of the container's processes but its init, as a crash would: what `docker kill` kills
        # counts as stopped by a person, and Docker does not start it again.
        kill = ["docker", "exec", container, "sh", "-c", "kill -KILL -1"]
        subprocess.run(kill, capture_output=True, check=False)
        wait_for(
            f"{container} is started again",
            lambda: state(container)["Running"] and state(container)["StartedAt"] != before,
            seconds=180,
        )
    elif fault.kind == "pause":
        docker("pause", container)
        time.sleep(AWAY)
        docker("unpause", container)
    else:
        for network in fault.networks:
            docker("network", "disconnect", f"fedstrata_{network}", container)
        time.sleep(AWAY)
        for network in fault.networks:
            alias = ["--alias", fault.service]
            docker("network", "connect", *alias, f"fedstrata_{network}", container)


def state(container: str) -> dict[str, Any]:
    """Return the state of a container, as Docker reports it."""
    found: dict[str, Any] = json.loads(docker("inspect", container))[0]["State"]
    return found


def wait_for(what: str, happened: Callable[[], bool], *, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(1.0)


def newest_round(name: str) -> int:
    """Return the last complete round of a run; 0 where none is, or its container is away."""
    with contextlib.suppress(AssertionError):
        said = inside("serverapp", "ls", f"/state/runs/{name}/checkpoints")
        return max(map(int, re.findall(r"^round-(\d+)$", said, re.MULTILINE)), default=0)
    return 0


@dataclass
class Going:
    """A run under way: the command that drives it, and the run's name."""

    popen: subprocess.Popen[bytes]
    log: Path
    name: str

    @property
    def ended(self) -> bool:
        return self.popen.poll() is not None

    def finish(self) -> str:
        """Return what the command said, when it has ended."""
        wait_for(f"the end of {self.name}", lambda: self.ended, seconds=1200)
        return self.log.read_text(errors="replace")


@contextlib.contextmanager
def going(folder: Path, *command: str) -> Iterator[Going]:
    """Start `docker/testbed` with a command that plays a run, and wait until it has its name."""
    before = TOLD.read_text() if command[0] == "run" else ""
    log = folder / f"{len(list(folder.iterdir()))}.log"
    with log.open("wb") as output:
        popen = subprocess.Popen([SCRIPT, *command], stdout=output, stderr=subprocess.STDOUT)
    try:
        wait_for("the run has a name", lambda: TOLD.read_text() != before, seconds=180)
        time.sleep(1.0)
        yield Going(popen, log, TOLD.read_text().splitlines()[1])
    finally:
        if popen.poll() is None:
            popen.kill()
        popen.wait()


@dataclass(frozen=True)
class Outcome:
    """What a run came to: results, metrics, and a digest of each hospital's last personal layers."""

    results: dict[str, Any]
    personal: dict[str, str]

    @property
    def measured(self) -> Any:
        return final_metrics(self.results)


def outcome(said: str) -> Outcome:
    results = results_in(said)
    personal = {}
    for hospital, letter in HOSPITALS.items():
        kept = f"/state/sites/{results['federation']}/sites/{hospital}"
        personal[hospital] = inside(
            f"{letter}-app", "python", "-c", DIGEST, kept, user=APP_USER
        ).strip()
    return Outcome(results, personal)


@pytest.fixture(scope="module")
def quiet(results: dict[str, Any]) -> Outcome:
    """Play the undisturbed run."""
    undisturbed = outcome(testbed("run", "-c", f"overrides={OVERRIDES}"))
    assert_whole(undisturbed)
    return undisturbed


def assert_whole(played: Outcome) -> None:
    """Check that every round is there once, with every hospital, and that layers are each one's own."""
    rounds = played.results["rounds"]
    assert [record["round"] for record in rounds] == list(range(1, ROUNDS + 1))
    for record in rounds:
        assert sorted(record["sites"]) == sorted(HOSPITALS)
    assert sorted(played.results["final"]["sites"]) == sorted(HOSPITALS)
    for file in played.personal.values():
        assert file.startswith(f"round-{ROUNDS:06d}.safetensors ")
    assert len(set(played.personal.values())) == len(HOSPITALS)


@pytest.mark.parametrize("number", range(len(PARTS) * len(KINDS) // FAULTS_A_RUN))
def test_a_disturbed_run_ends_as_the_undisturbed_one(
    quiet: Outcome, tmp_path: Path, number: int
) -> None:
    faults = plan()[number * FAULTS_A_RUN : (number + 1) * FAULTS_A_RUN]
    happened = []
    with going(tmp_path, "run", "-c", f"overrides={OVERRIDES}") as run:
        for index, fault in enumerate(faults):
            after_round = 1 + 2 * index
            wait_for(
                f"round {after_round} of {run.name}",
                lambda least=after_round: run.ended or newest_round(run.name) >= least,  # type: ignore[misc]
                seconds=900,
            )
            if run.ended:
                break
            time.sleep(fault.after)
            print(f"after round {after_round}: {fault}", flush=True)
            inject(fault)
            happened.append(fault)
        said = run.finish()
    assert run.popen.returncode == 0, said[-3000:]
    assert len(happened) >= FAULTS_A_RUN - 1, happened
    played = outcome(said)
    assert_whole(played)
    assert played.personal == quiet.personal
    assert played.measured == quiet.measured


def test_a_run_whose_driver_docker_kills_is_resumed(quiet: Outcome, tmp_path: Path) -> None:
    with going(tmp_path, "run", "-c", f"overrides={OVERRIDES}") as run:
        wait_for("round 1", lambda: run.ended or newest_round(run.name) >= 1, seconds=900)
        docker("kill", "--signal", "KILL", "fedstrata-driver-1")
        assert "docker/testbed resume" in run.finish()
    assert run.popen.returncode == 1
    with going(tmp_path, "resume") as resumed:
        said = resumed.finish()
    assert resumed.popen.returncode == 0, said[-3000:]
    assert resumed.name == run.name
    played = outcome(said)
    assert_whole(played)
    assert played.personal == quiet.personal
    assert played.measured == quiet.measured


def test_the_plan_is_a_dozen_of_every_kind() -> None:
    faults = plan()
    assert len(faults) == 12
    assert faults == plan()
    met = {(fault.service.rpartition("-")[2], fault.kind) for fault in faults}
    assert met == {(part, kind) for part in PARTS for kind in KINDS}
