"""Starts Flower's own simulation as a user does: a local SuperLink, and `flwr run` on it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.flower.processes import REPOSITORY, clean_environment, free_port

SHOWN = ("run ", "round ", "mean over sites", "error", "Error", "WARNING", "stage 1")


class SimulationFailed(RuntimeError):
    """Flower could not be started, or a run left no results; the text says where the log is."""


def _leave(number: int, _: object) -> None:
    raise SystemExit(128 + number)


@dataclass
class Simulator:
    """A SuperLink in simulation mode, and runs on it; its homes and logs are under ``folder``.

    Parameters
    ----------
    folder : Path
        Absolute; made where it is not there.
    actors : int
        Sites that are simulated at the same time, one CPU and one thread each.
    """

    folder: Path
    actors: int = field(default_factory=lambda: os.cpu_count() or 1)
    control: int = field(default_factory=free_port)
    superlink: subprocess.Popen[bytes] | None = None
    before: Any = signal.SIG_DFL

    def __enter__(self) -> Simulator:
        # Or the SuperLink would go on without us.
        self.before = signal.signal(signal.SIGTERM, _leave)
        for home in (self.folder / "flwr", self.folder / "home", self.folder / "logs"):
            home.mkdir(parents=True, exist_ok=True)
        connection = f'[superlink.bench]\naddress = "127.0.0.1:{self.control}"\ninsecure = true\n'
        (self.folder / "flwr" / "config.toml").write_text(connection)
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()
        signal.signal(signal.SIGTERM, self.before)

    def environment(self) -> dict[str, str]:
        """Return the environment of each process: nothing of the user's own Flower, Ray or app."""
        return clean_environment(self.folder / "home", self.folder / "flwr", threads=1)

    def start(self) -> None:
        """Start the SuperLink and wait until its Control API answers."""
        command = ["flower-superlink", "--insecure", "--simulation"]
        command += ["--control-api-address", f"127.0.0.1:{self.control}"]
        command += ["--serverappio-api-address", f"127.0.0.1:{free_port()}"]
        with (self.folder / "logs" / "superlink.log").open("ab") as log:
            self.superlink = subprocess.Popen(
                command,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and self.superlink.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.control)) == 0:
                    return
            time.sleep(0.2)
        raise SimulationFailed(f"the SuperLink did not start; see {log.name}")

    def stop(self) -> None:
        """End the SuperLink and what it started."""
        if self.superlink is None:
            return
        for how in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.superlink.pid, how)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.superlink.wait(15)
        deadline = time.monotonic() + 15
        while _is_there(self.superlink.pid) and time.monotonic() < deadline:
            time.sleep(0.05)  # what was killed takes its time to be gone
        self.superlink = None

    def command(self, sites: int, run_config: Mapping[str, str | int], app: str = ".") -> list[str]:
        """Return the `flwr run` command of a run of ``app``, a folder; ours when omitted."""
        federation = f"num-supernodes={sites} client-resources-num-cpus=1"
        federation += f" init-args-num-cpus={self.actors}"
        pairs = " ".join(
            f'{key}="{value}"' if isinstance(value, str) else f"{key}={value}"
            for key, value in run_config.items()
            if value
        )
        program = ["flwr", "run", app, "bench", "--stream"]
        return [*program, "--federation-config", federation, "-c", pairs]

    def run(
        self, name: str, sites: int, run_config: Mapping[str, str | int], app: str = "."
    ) -> str:
        """Run ``app`` to the end; return what it wrote."""
        if self.superlink is None:
            self.start()
        command = self.command(sites, run_config, app)
        log = self.folder / "logs" / f"{name}-{time.strftime('%H%M%S')}.log"
        with log.open("w") as kept:
            process = subprocess.Popen(
                command,
                cwd=REPOSITORY,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            assert process.stdout is not None
            for line in process.stdout:
                kept.write(line)
                kept.flush()
                if any(word in line for word in SHOWN):
                    print(line.rstrip()[-180:], flush=True)
            process.wait()
        return log.read_text()


def _is_there(group: int) -> bool:
    """Return whether a process group has members."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
