"""Flower's own simulation as a user starts it: a local SuperLink, and `flwr run` on it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.flower.deployment import SuperLink
from benchmarks.flower.processes import Processes

PRINTED = ("run ", "round ", "mean over sites", "error", "Error", "WARNING", "stage 1")


RunConfig = Mapping[str, str | int | float]
"""What `flwr run -c` is given."""


class SimulationFailed(RuntimeError):
    """A run left no results; the text says where the log is."""


def _exit(number: int, _: object) -> None:
    raise SystemExit(128 + number)


@dataclass
class Simulator:
    """A SuperLink in simulation mode, and runs on it; its homes and logs are under ``folder``.

    Parameters
    ----------
    folder : Path
        Absolute; created when it does not exist.
    actors : int
        Sites that are simulated at the same time, one CPU and one thread each.
    gpus : float
        Share of a GPU for each of them, such as 0.5; 0 for none.
    """

    folder: Path
    actors: int = field(default_factory=lambda: os.cpu_count() or 1)
    gpus: float = 0.0
    processes: Processes = field(init=False)
    superlink: SuperLink = field(init=False)
    before: Any = signal.SIG_DFL
    plays: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self.processes = Processes(self.folder)
        self.superlink = SuperLink(self.processes, "simulation", simulation=True)

    def __enter__(self) -> Simulator:
        # By default SIGTERM ends Python at once, and the SuperLink would go on without us.
        self.before = signal.signal(signal.SIGTERM, _exit)
        self.processes.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()
        signal.signal(signal.SIGTERM, self.before)

    def start(self) -> None:
        """Start the SuperLink and wait until its Control API answers."""
        self.superlink.start()

    def stop(self) -> None:
        """End the SuperLink and what it started."""
        self.processes.end_all()
        self.superlink.process = None

    def command(self, sites: int, run_config: RunConfig, app: str = ".") -> list[str]:
        """Return the `flwr run` command of a run of ``app``, a folder; ours when omitted."""
        federation = f"num-supernodes={sites} client-resources-num-cpus=1"
        federation += f" init-args-num-cpus={self.actors}"
        if self.gpus:
            federation += f" client-resources-num-gpus={self.gpus:g}"
        pairs = " ".join(
            f'{key}="{value}"' if isinstance(value, str) else f"{key}={value}"
            for key, value in run_config.items()
            if value
        )
        program = ["flwr", "run", app, self.superlink.name, "--stream"]
        return [*program, "--federation-config", federation, "-c", pairs]

    def run(self, name: str, sites: int, run_config: RunConfig, app: str = ".") -> str:
        """Run ``app`` to the end; print what matters of its output, and return all of it."""
        if self.superlink.process is None:
            self.start()
        # With the time: the logs of runs that were started before in this folder stay.
        name = f"{name}-{time.strftime('%H%M%S')}"
        run = self.processes.start(name, self.command(sites, run_config, app))
        for line in run.lines():
            if any(word in line for word in PRINTED):
                print(line.rstrip()[-180:], flush=True)
        return run.text


class Finished(Simulator):
    """Runs nothing: what is not finished leaves no results."""

    plays = False

    def run(self, name: str, sites: int, run_config: RunConfig, app: str = ".") -> str:
        """Run nothing."""
        return ""
