"""Stand-ins for Flower's simulation: one runs the real apps in this process, one writes results."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from benchmarks.accuracy.study import composed
from benchmarks.flower.simulator import RunConfig as SimulatorConfig
from benchmarks.flower.simulator import Simulator
from server_app.app import run_all
from server_app.compose import RunConfig
from strategies.config import Config
from tests.loopback import LoopbackGrid


class LoopbackSimulator(Simulator):
    """Runs the real apps in this process, and counts its runs."""

    runs = 0

    def run(self, name: str, sites: int, run_config: SimulatorConfig, app: str = ".") -> str:
        overrides = tuple(shlex.split(str(run_config["overrides"])))
        nodes = {100 + i: {"partition-id": i, "num-partitions": sites} for i in range(sites)}
        given = {key: run_config[key] for key in ("output-dir", "data-root")}
        output = Path(str(run_config["output-dir"]))
        grid = LoopbackGrid(nodes, given)
        run_all(grid, RunConfig(str(run_config["experiment"]), overrides, output, ""))
        self.runs += 1
        return ""


class CannedSimulator(Simulator):
    """Writes made-up results.json files, one for each set of overrides, and counts its runs."""

    runs = 0

    def run(self, name: str, sites: int, run_config: SimulatorConfig, app: str = ".") -> str:
        output = Path(str(run_config["output-dir"]))
        for number, overrides in enumerate(str(run_config["overrides"]).split(" ; ")):
            config = composed(str(run_config["experiment"]), tuple(shlex.split(overrides)))
            folder = output / f"{self.runs}-{number}"
            (folder / "checkpoints" / "round-000001").mkdir(parents=True)
            (folder / "results.json").write_text(json.dumps(canned_results(config, sites)))
        self.runs += 1
        return ""


def canned_results(config: Config, sites: int) -> dict[str, Any]:
    """Return results of ``sites`` sites of two tasks; a method that shares is 10 points better."""
    shared = 0.0 if config.method["name"] == "local" else 0.1
    each = {
        f"site-{i:02d}": {
            "task": ("gender", "pose")[i % 2],
            "accuracy": 0.5 + 0.01 * i + 0.02 * config.seed + shared,
            "balanced_accuracy": 0.5,
            "alone_accuracy": 0.5 + 0.01 * i,
            "majority_accuracy": 0.4,
            "validation": {"accuracy": 0.5 + 0.1 * config.train.optimizer.lr},
        }
        for i in range(sites)
    }
    keys = ("accuracy", "balanced_accuracy", "alone_accuracy", "majority_accuracy")
    mean = {key: sum(site[key] for site in each.values()) / sites for key in keys}
    record = {"sites": each, "bytes_down": {"common": 10}, "bytes_up": {"common": 5}}
    return {
        "run": "canned",
        "seed": config.seed,
        "config": config.to_dict(),
        "rounds": [{"round": n + 1, **record} for n in range(config.strategy.rounds)],
        "final": {"sites": each, "mean": mean},
        "deployment": None,
    }
