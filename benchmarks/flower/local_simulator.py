"""`fedstrata run` in place of `flwr run`: the same runs in processes of their own, which start sooner."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from benchmarks.flower.simulator import RunConfig, Simulator

PROGRAM = "from fedstrata.cli.main import main; main()"


@dataclass
class LocalSimulator(Simulator):
    """Runs of this checkout's `fedstrata run`; there is no SuperLink."""

    def start(self) -> None:
        """Start nothing: each run has processes of its own."""

    def command(self, sites: int, run_config: RunConfig, app: str = ".") -> list[str]:
        """Return the `fedstrata run` command of a run."""
        del app
        words = [f"{key}={run_config[key]}" for key in run_config if key != "overrides"]
        overrides = str(run_config.get("overrides", "")).split()
        command = [sys.executable, "-c", PROGRAM, "run", "--nodes", str(sites)]
        if self.gpus:
            command += ["--node-gpus", f"{self.gpus:g}"]
        return [*command, *(word for word in words if not word.endswith("=")), *overrides]
