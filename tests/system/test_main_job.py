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
    assert set(final["tasks"]) == {"gender", "pose"}
    assert all(task["sites"] == 5 for task in final["tasks"].values())
    for group in results["partition"]["gender"]:
        assert group["tensors"] > 0  # all four groups in use
    for name, task in final["tasks"].items():
        assert task["accuracy"] >= task["majority_accuracy"] + 0.1, name
        assert task["accuracy"] >= task["alone_accuracy"] + 0.02, name
    mean = final["mean"]
    assert mean["accuracy"] >= mean["alone_accuracy"] + 0.04
    assert mean["pooled_accuracy"] > mean["accuracy"]
    for words in ("points against alone", "  in one place  ", "report: fedstrata report "):
        assert words in log
