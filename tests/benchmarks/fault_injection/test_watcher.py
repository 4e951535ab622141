"""What the watcher calls broken: made by hand here, since a healthy federation shows none of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from benchmarks.fault_injection.plan import SITES
from benchmarks.fault_injection.testbed import ROUNDS
from benchmarks.fault_injection.watcher import Watcher


def record(number: int) -> dict[str, Any]:
    return {"round": number, "sites": {site: {"accuracy": 0.5} for site in SITES}}


def results() -> dict[str, Any]:
    return {"rounds": [record(number) for number in range(1, ROUNDS + 1)]}


def write_history(folder: Path, history: list[dict[str, Any]]) -> None:
    lines = "".join(f"{json.dumps(each)}\n" for each in history)
    (folder / "history.jsonl").write_text(lines + '{"round": ')  # and one is being written


def checkpoint(folder: Path, number: int) -> None:
    path = folder / "output" / "march" / "checkpoints" / f"round-{number:06d}"
    path.mkdir(parents=True)
    write_history(path.parent, [record(n) for n in range(1, number + 1)])
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
        watcher.look()
    return watcher


def test_a_whole_run_is_not_broken(watcher: Watcher) -> None:
    shutil.rmtree(watcher.run / "checkpoints" / "round-000001")  # as old ones are
    watcher.look()
    watcher.check_results(results())
    assert watcher.broken == []


def test_a_round_that_vanished_is_reported(watcher: Watcher) -> None:
    shutil.rmtree(watcher.run / "checkpoints" / f"round-{ROUNDS:06d}")
    watcher.look()
    assert watcher.broken == [f"round {ROUNDS} was complete, and now it is {ROUNDS - 1}"]


def test_layers_that_changed_are_reported(watcher: Watcher, tmp_path: Path) -> None:
    (watcher.run / "checkpoints" / "round-000002" / "state.safetensors").write_bytes(b"other")
    personal(tmp_path, "site-01", 3).write_bytes(b"started afresh")
    watcher.look()
    assert watcher.broken == [
        "round-000002 have changed",
        "site-01's personal layers of round-000003 have changed",
    ]


def test_a_history_that_changed_is_reported(watcher: Watcher) -> None:
    write_history(watcher.run / "checkpoints", [record(1), {**record(2), "sites": {}}])
    watcher.look()
    other = results()
    other["rounds"][3]["sites"] = {}
    watcher.check_results(other)
    assert watcher.broken == [
        "what happened in round 2 has changed",
        "results.json reports round 4 differently",
    ]


def test_a_site_without_its_last_layers_is_reported(tmp_path: Path) -> None:
    watcher = Watcher(tmp_path / "output" / "march", tmp_path)
    for number in range(1, ROUNDS + 1):
        checkpoint(tmp_path, number)
    for site in SITES:
        personal(tmp_path, site, ROUNDS - 1 if site == "site-02" else ROUNDS)
    watcher.look()
    watcher.check_results(results())
    assert watcher.broken == ["site-02 has no personal layers of the last round it took part in"]


def test_a_round_that_nobody_saw_is_reported(tmp_path: Path) -> None:
    watcher = Watcher(tmp_path / "output" / "march", tmp_path)
    checkpoint(tmp_path, ROUNDS)
    watcher.ended.set()
    watcher.watch()  # looks once more at the end
    watcher.check_results({"rounds": []})
    assert watcher.broken == [f"nobody saw the checkpoints of rounds {list(range(1, ROUNDS))}"]
