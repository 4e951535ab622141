"""What the fault bench calls broken: made by hand here, since a healthy federation shows none of it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from benchmarks.faults import (
    ROUNDS,
    SITES,
    Fault,
    GroupCheckpoint,
    Injector,
    Outcome,
    Testbed,
    Watcher,
    _notes,
    compare,
)
from benchmarks.flower.processes import Process, Processes, SuperLink


def record(number: int) -> dict[str, Any]:
    return {"round": number, "sites": {site: {"accuracy": 0.5} for site in SITES}}


def checkpoint(folder: Path, number: int) -> None:
    path = folder / "output" / "march" / "checkpoints" / f"round-{number:06d}"
    path.mkdir(parents=True)
    history = [record(n) for n in range(1, number + 1)]
    (path / "history.json").write_text(json.dumps({"history": history}))
    (path / "state.safetensors").write_bytes(bytes([number]))


def personal(folder: Path, site: str, number: int) -> Path:
    path = folder / site / "state" / "march-00ff" / "sites" / site
    path.mkdir(parents=True, exist_ok=True)
    file = path / f"round-{number:06d}.safetensors"
    file.write_bytes(f"{site} {number}".encode())
    return file


@pytest.fixture
def watcher(tmp_path: Path) -> Watcher:
    """A watcher that has seen a whole run, round by round."""
    watcher = Watcher(tmp_path / "output" / "march", tmp_path)
    for number in range(1, ROUNDS + 1):
        for site in SITES:
            personal(tmp_path, site, number)
        checkpoint(tmp_path, number)
        watcher._look()
    return watcher


def results() -> dict[str, Any]:
    return {"rounds": [record(number) for number in range(1, ROUNDS + 1)]}


def test_a_whole_run_is_not_broken(watcher: Watcher, tmp_path: Path) -> None:
    shutil.rmtree(watcher.run / "checkpoints" / "round-000001")  # as old ones are
    watcher._look()
    watcher.judge(results())
    assert watcher.broken == []


def test_a_run_that_came_to_no_end_is_told_as_that() -> None:
    layers = {site: {"bn2": site.encode()} for site in SITES}
    final = {"sites": {site: {"accuracy": 0.5, "loss": 1.0} for site in SITES}}
    quiet = Outcome({**results(), "final": final}, {}, layers, [], [])
    ended = Outcome({**results(), "final": None}, {}, layers, ["it did not come to its end"], [])
    assert compare(quiet, ended) == ["it did not come to its end"]
    assert compare(quiet, quiet) == []


def test_a_round_that_vanished_is_told(watcher: Watcher) -> None:
    shutil.rmtree(watcher.run / "checkpoints" / f"round-{ROUNDS:06d}")
    watcher._look()
    assert watcher.broken == [f"round {ROUNDS} was complete, and now it is {ROUNDS - 1}"]


def test_layers_that_changed_are_told(watcher: Watcher, tmp_path: Path) -> None:
    (watcher.run / "checkpoints" / "round-000002" / "state.safetensors").write_bytes(b"other")
    personal(tmp_path, "site-01", 3).write_bytes(b"started afresh")
    watcher._look()
    assert watcher.broken == [
        "round-000002 have changed",
        "site-01's personal layers of round-000003 have changed",
    ]


def test_a_history_that_changed_is_told(watcher: Watcher) -> None:
    path = watcher.run / "checkpoints" / "round-000002" / "history.json"
    path.write_text(json.dumps({"history": [record(1), {**record(2), "sites": {}}]}))
    watcher._look()
    told = results()
    told["rounds"][3]["sites"] = {}
    watcher.judge(told)
    assert watcher.broken == [
        "what happened in round-000002 has changed",
        "results.json tells round 4 in another way",
    ]


def test_a_site_without_its_last_layers_is_told(tmp_path: Path) -> None:
    watcher = Watcher(tmp_path / "output" / "march", tmp_path)
    for number in range(1, ROUNDS + 1):
        checkpoint(tmp_path, number)
    for site in SITES:
        personal(tmp_path, site, ROUNDS - 1 if site == "site-02" else ROUNDS)
    watcher._look()
    watcher.judge(results())
    assert watcher.broken == ["site-02 has no personal layers of the round it took part in last"]


def test_a_round_that_nobody_saw_is_told(tmp_path: Path) -> None:
    watcher = Watcher(tmp_path / "output" / "march", tmp_path)
    checkpoint(tmp_path, ROUNDS)
    watcher._look()
    watcher.judge({"rounds": []})
    assert watcher.broken == [f"nobody saw the checkpoints of rounds {list(range(1, ROUNDS))}"]


@pytest.fixture
def testbed(tmp_path: Path) -> Iterator[Testbed]:
    """A testbed of one site, whose process ends at once."""
    with Processes(tmp_path) as processes:
        testbed = Testbed(processes, SuperLink(processes), {})
        ended = processes.start("site", [sys.executable, "-c", "pass"])
        processes.finish(ended, seconds=60)
        testbed.sites[SITES[0]] = GroupCheckpoint(lambda: ended, ended)
        yield testbed


def test_a_fault_that_finds_its_process_down_did_not_happen(testbed: Testbed) -> None:
    assert testbed.pids(Fault("site", SITES[0], "kill", "idle", 0.0)) == []
    assert testbed.pids(Fault("app", SITES[0], "kill", "idle", 0.0)) == []


def test_a_phase_is_seen_in_the_log_of_what_was_started_again(
    testbed: Testbed, tmp_path: Path
) -> None:
    log = tmp_path / "again.log"
    line = ": train, round\n"

    class Run:
        """Another log at every look; the run ends after the last."""

        looks = iter((5 * line, 5 * line, "", line))

        @property
        def ended(self) -> bool:
            text = next(self.looks, None)
            if text is not None:
                log.write_text(text)
            return text is None

    popen = cast("subprocess.Popen[bytes]", None)
    log.write_text(5 * line)
    testbed.sites[SITES[0]].process = Process("site", popen, log)
    injector = Injector(testbed, cast(Process, Run()), "march")
    assert injector._await(Fault("site", SITES[0], "kill", "training", 0.0))


def test_a_broken_run_is_not_said_to_have_ended_as_the_undisturbed_one() -> None:
    outcome = Outcome(results(), {}, {}, [], [Fault("site", SITES[0], "kill", "idle", 0.0)])
    (whole,) = _notes([outcome], [])
    assert whole.endswith("of the undisturbed run, bit for bit.")
    first, second = _notes([outcome], ["the metrics differ"])
    assert first.endswith("in 1 runs no contribution was missed.")
    assert second == "BROKEN: the metrics differ"
