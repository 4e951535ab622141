"""A peer's program in place of `flwr run`: the same work, as one process of its own Python."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.flower.local_simulator import LocalSimulator
from benchmarks.flower.simulator import RunConfig


@dataclass
class Program(LocalSimulator):
    """Runs of a module of `benchmarks.peers`; there is no SuperLink.

    Parameters
    ----------
    module : str
        Its dotted name.
    python : Path
        The Python that runs it.
    """

    module: str = ""
    python: Path = Path(sys.executable)

    def command(self, sites: int, run_config: RunConfig, app: str = ".") -> list[str]:
        """Return the command of a run; the program has an option for each key of the run config."""
        del sites, app
        options = [f"--{key}={value}" for key, value in run_config.items()]
        # Without PYTHONPATH and the like, which are of the environment that this runs in.
        return [str(self.python), "-E", "-m", self.module, *options]
