"""`fedstrata run` as a person uses it: begun, stopped with Ctrl-C, resumed, complete, listed."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import pytest
from torch import Tensor

from benchmarks.flower.process_tree import has_variable, running
from benchmarks.flower.processes import PROGRAMS, Processes
from models import weights
from tests.helpers.runs import PLAIN, SMALL, same, states, without_times
from tests.loopback import simulate

pytestmark = pytest.mark.system
ROUNDS = 30
RUN = [*SMALL, f"strategy.rounds={ROUNDS}", "train.threads=1", "--nodes", "2"]


def fedstrata(processes: Processes, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(PROGRAMS / "fedstrata"), *words],
        cwd=processes.folder,
        env=processes.environment(),
        capture_output=True,
        text=True,
        timeout=480,
        check=False,
    )


def homes(processes: Processes) -> list[int]:
    """Return the living processes that this test's commands started."""
    mark = f"FEDSTRATA_HOME={processes.home}"
    return [each.pid for each in running() if has_variable(each.pid, mark)]


def test_a_run_is_stopped_resumed_and_complete(tmp_path: Path) -> None:
    with Processes(tmp_path, threads=1) as processes:
        output = tmp_path / "outputs"
        command = [str(PROGRAMS / "fedstrata"), "run", f"output-dir={output}", "name=march", *RUN]
        begun = processes.start("run", command)
        processes.wait_for(
            "round 2", lambda: f"round 2/{ROUNDS}: " in begun.text, seconds=300, watch=[begun]
        )
        begun.popen.send_signal(signal.SIGINT)
        text = processes.finish(begun, seconds=60)
        assert begun.popen.returncode == 130, text
        assert f"fedstrata run --resume march output-dir={output}" in text
        processes.wait_for("the end of all", lambda: not homes(processes), seconds=10)

        listed = json.loads(fedstrata(processes, "runs", str(output), "--json").stdout)
        assert [(run["run"], run["state"]) for run in listed] == [("march", "stopped")]
        stopped_at = int(listed[0]["rounds"].split()[0])
        assert 2 <= stopped_at < ROUNDS

        done = fedstrata(processes, "run", "--resume", "march")
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"resuming after round {stopped_at}" in done.stdout
        assert done.stderr == ""
        (row,) = json.loads(fedstrata(processes, "runs", "--json").stdout)
        assert (row["state"], row["rounds"]) == ("complete", f"{ROUNDS} of {ROUNDS}")
        logs = sorted((output / "march" / "logs").iterdir())
        assert len(logs) == 2  # one for each start
        assert "resuming after round" in logs[-1].read_text()


def test_nothing_outlives_a_command_that_is_killed(tmp_path: Path) -> None:
    output = tmp_path / "out"

    def trains() -> bool:
        return any('"working"' in path.read_text() for path in output.glob("*/progress.json"))

    with Processes(tmp_path, threads=1) as processes:
        command = [str(PROGRAMS / "fedstrata"), "run", f"output-dir={output}", *RUN]
        begun = processes.start("run", [*command, "train.epochs=1000000"])
        processes.wait_for("an order", trains, seconds=300, watch=[begun])
        assert len(homes(processes)) > 3
        begun.popen.kill()
        processes.wait_for("the end of all", lambda: not homes(processes), seconds=60)
        assert list(output.glob(".starting-*.log")) or list(output.glob("*/logs/*.log"))


def kept(output: Path) -> dict[str, dict[str, Tensor]]:
    """Return the tensors of each file that the sites of the run keep."""
    (folder,) = output.glob("march-*/sites")
    paths = sorted(folder.rglob("*.safetensors"))
    return {str(path.relative_to(folder)): weights.load(path)[0] for path in paths}


def test_its_processes_give_the_bits_of_one_process(tmp_path: Path) -> None:
    run = [*PLAIN, "train.threads=1", "train.optimizer.momentum=0.9"]
    many, one = tmp_path / "many" / "outputs", tmp_path / "one"
    with Processes(many.parent, threads=1) as processes:
        done = fedstrata(processes, "run", f"output-dir={many}", "name=march", "--nodes", "4", *run)
        assert done.returncode == 0, done.stdout + done.stderr
    expected, _ = simulate(one, "faces", run, sites=4, name="march")
    results = json.loads((many / "march" / "results.json").read_text())
    assert without_times(results) == without_times(expected)
    assert same(states(many, "march"), states(one, "march"))
    personal, alike = kept(many), kept(one)
    assert "tensor/head.out.weight" in alike["site-03/round-000002.safetensors"]
    assert personal.keys() == alike.keys()
    assert all(same(personal[name], alike[name]) for name in alike)
