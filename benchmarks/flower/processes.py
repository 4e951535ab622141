"""Processes on free ports in folders of their own, which always end with those who started them."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.flower.process_tree import Running, has_variable, running

REPOSITORY = Path(__file__).resolve().parents[2]
PROGRAMS = Path(sys.executable).parent
MARK = "FEDSTRATA_TEST_PROCESSES"
SHOWN = 4000  # characters of each log that a failure quotes


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listening(port: int) -> bool:
    """Return whether somebody accepts connections on ``port``."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def clean_environment(
    home: Path, flower_home: Path, *, threads: int | None, more: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return an environment with nothing of the user's own Flower, Ray or app in it.

    ``home`` and ``flower_home`` are where the app and Flower keep things, ``threads`` those of
    OpenMP; None leaves them as the user has them.
    """
    own = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("FLWR_", "RAY_", "FEDSTRATA_", "HYDRA_"))
    }
    if threads is not None:
        own["OMP_NUM_THREADS"] = str(threads)
    return own | {
        "FEDSTRATA_HOME": str(home),
        "FLWR_HOME": str(flower_home),
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
        "PATH": f"{PROGRAMS}{os.pathsep}{own.get('PATH', '')}",
        "PYTHONUNBUFFERED": "1",
        "COLUMNS": "200",
        **(more or {}),
    }


@dataclass
class Process:
    """A process that was started here, the leader of a process group, and the log of its output."""

    name: str
    popen: subprocess.Popen[bytes]
    log: Path

    @property
    def text(self) -> str:
        """What it has written so far."""
        return self.log.read_text(errors="replace")

    def lines(self, poll: float = 0.2) -> Iterator[str]:
        """Yield each line that it writes, until it has ended."""
        with self.log.open(errors="replace") as log:
            over, line = False, ""
            while not over:
                # Asked before the last look: what it wrote until its end is yielded too.
                over = self.ended
                while read := log.readline():
                    line += read
                    if line.endswith("\n"):
                        yield line
                        line = ""
                if not over:
                    time.sleep(poll)
            if line:
                yield line

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self.popen.poll() is not None

    def kill(self) -> None:
        """End it and its children at once, as a power cut would."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait(10)


@dataclass
class Processes:
    """Processes that end on leaving, and all that they started with them.

    Parameters
    ----------
    folder : Path
        Holds the logs, and the homes of Flower and of the app.
    threads : int or None
        Threads of OpenMP in each process; None as the user has them.
    local_port : int
        Where `flwr run` looks for a local SuperLink, and starts one, for simulations.
    """

    folder: Path
    threads: int | None = 1
    local_port: int = field(default_factory=free_port)
    started: list[Process] = field(default_factory=list)
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __enter__(self) -> Processes:
        for home in (self.flower_home, self.home, self.folder / "logs"):
            home.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *error: object) -> None:
        self.end_all()

    @property
    def home(self) -> Path:
        """``FEDSTRATA_HOME`` of all processes."""
        return self.folder / "home"

    @property
    def flower_home(self) -> Path:
        """``FLWR_HOME`` of all processes."""
        return self.folder / "flwr"

    def environment(self) -> dict[str, str]:
        """Return the environment of each process: nothing of the user's own Flower, Ray or app."""
        return clean_environment(
            self.home,
            self.flower_home,
            threads=self.threads,
            more={MARK: self.mark, "FLWR_LOCAL_CONTROL_API_PORT": str(self.local_port)},
        )

    def start(
        self, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> Process:
        """Start ``command`` in the repository; its output goes to a log file."""
        log = self.folder / "logs" / f"{len(self.started):02d}-{name}.log"
        with log.open("wb") as output:
            popen = subprocess.Popen(
                command,
                cwd=REPOSITORY,
                env={**self.environment(), **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        process = Process(name, popen, log)
        self.started.append(process)
        return process

    def wait_for(
        self,
        what: str,
        happened: Callable[[], bool],
        *,
        seconds: float,
        watch: Sequence[Process] = (),
        poll: float = 0.1,
    ) -> None:
        """Wait until ``happened()``; fail with the logs after ``seconds``.

        Fails at once where a process of ``watch`` ends before that.
        """
        deadline = time.monotonic() + seconds
        while not happened():
            for process in watch:
                if process.ended and not happened():
                    raise AssertionError(f"{process.name} ended before: {what}\n{self.logs()}")
            if time.monotonic() >= deadline:
                raise AssertionError(f"not within {seconds:g} s: {what}\n{self.logs()}")
            time.sleep(poll)

    def logs(self) -> str:
        """Return the end of every log there is, those of a SuperLink that Flower started included."""
        paths = [*sorted((self.folder / "logs").glob("*.log")), *self.flower_home.rglob("*.log")]
        tails = [f"--- {path.name}\n{path.read_text(errors='replace')[-SHOWN:]}" for path in paths]
        return "\n".join(tails)

    def flwr_run(
        self,
        name: str,
        superlink: str,
        run_config: Mapping[str, str],
        *,
        options: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> Process:
        """Start ``flwr run . <superlink> --stream`` with the given run config."""
        pairs = " ".join(f'{key}="{value}"' for key, value in run_config.items())
        command = ["flwr", "run", ".", superlink, "--stream", *options]
        if pairs:
            command += ["-c", pairs]
        return self.start(name, command, environment)

    def finish(self, process: Process, *, seconds: float) -> str:
        """Wait until ``process`` has ended and return what it wrote."""
        self.wait_for(f"the end of {process.name}", lambda: process.ended, seconds=seconds)
        return process.text

    def end_all(self, grace: float = 8.0) -> None:
        """End every process started here, and their children wherever they went."""
        family = self._family(set())
        self._signal(family, signal.SIGTERM)
        deadline = time.monotonic() + grace
        while (family := self._family(family)) and time.monotonic() < deadline:
            time.sleep(0.1)
        while family := self._family(family):
            self._signal(family, signal.SIGKILL)
            time.sleep(0.1)
            if time.monotonic() > deadline + 20:
                raise AssertionError(f"processes {sorted(p.pid for p in family)} do not end")

    def _family(self, known: set[Running]) -> set[Running]:
        """Return the living processes that were started here.

        Those that carry the mark in their environment, those of ``known``, and the sessions and
        the children of both: Flower's own SuperLink and Ray's workers leave the process group,
        and Ray's workers overwrite their environment.
        """
        for process in self.started:
            process.popen.poll()  # takes the exit status, so that it is no zombie
        alive = set(running())
        leaders = {process.popen.pid for process in self.started if not process.ended}
        marked = f"{MARK}={self.mark}"
        found = {p for p in alive if p in known or p.pid in leaders or has_variable(p.pid, marked)}
        grown = True
        while grown:
            pids = {p.pid for p in found}
            sessions = {p.session for p in found} - {os.getsid(0)}
            more = {p for p in alive if p.parent in pids or p.session in sessions}
            grown = not more <= found
            found |= more
        return {p for p in found if p.pid != os.getpid()}

    def _signal(self, family: set[Running], number: signal.Signals) -> None:
        for process in self.started:
            if not process.ended:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.popen.pid, number)
        for member in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(member.pid, number)
