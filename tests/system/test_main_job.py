"""The README's first command, whole: the default experiment does what the README says of it."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from benchmarks.flower.processes import REPOSITORY, Processes

pytestmark = [pytest.mark.system, pytest.mark.timeout(2400)]


def run(processes: Processes, name: str, output: Path, overrides: str = "") -> str:
    """Run `flwr run . --stream` and return the log."""
    run_config = {"output-dir": str(output), "overrides": overrides}
    started = processes.flwr_run(name, "local", run_config)
    return processes.finish(started, seconds=1200)


def test_the_default_experiment_reaches_what_the_readme_says(local: Processes) -> None:
    output = local.folder / "main"
    log = run(local, "main", output)
    (path,) = output.glob("*/results.json")
    results = json.loads(path.read_text())
    jsonschema.validate(
        results, json.loads((REPOSITORY / "docs" / "results.schema.json").read_text())
    )
    assert f"results: {path}" in log
    final = results["final"]
    assert len(final["sites"]) == 10, log
    assert set(final["tasks"]) == {"gender", "age", "glasses", "pose", "teeth"}
    assert all(task["sites"] == 2 for task in final["tasks"].values())
    for group in results["partition"]["gender"]:
        assert group["tensors"] > 0  # all four groups in use
    for name, task in final["tasks"].items():
        assert task["accuracy"] >= task["majority_accuracy"] + 0.02, name
        assert task["balanced_accuracy"] >= 0.65, name
        assert task["auroc"] >= 0.85, name
    assert final["mean"]["accuracy"] > final["mean"]["alone_accuracy"]

    again = run(local, "again", output, "strategy.rounds=1 baselines.alone=false")
    assert "stage 1: pre-trained weights" in again
    assert "training skipped" in again
    assert "pre-training step" not in again
