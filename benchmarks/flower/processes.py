"""Real Flower processes, started on free ports in folders of their own, always ended."""

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
from typing import Any

import yaml

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
    """A process that a test started, the leader of a process group, and where its output goes."""

    name: str
    popen: subprocess.Popen[bytes]
    log: Path

    @property
    def text(self) -> str:
        """What it has written so far."""
        return self.log.read_text(errors="replace")

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
    """Every process of a test; on leaving none of them is left, nor any that they started.

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
        alive = set(_running())
        leaders = {process.popen.pid for process in self.started if not process.ended}
        marked = f"{MARK}={self.mark}".encode()
        found = {p for p in alive if p in known or p.pid in leaders or _carries(p.pid, marked)}
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
        for running in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(running.pid, number)


@dataclass(frozen=True)
class Running:
    """A living process; its pid alone could be taken by another one after its end."""

    pid: int
    started: int = field(repr=False)  # clock ticks since the machine started
    parent: int = field(compare=False)
    session: int = field(compare=False)


def _running() -> Iterator[Running]:
    """Yield each living process; where there is no /proc, none: process groups must do there."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            told = (folder / "stat").read_text().rpartition(")")[2].split()
            if told[0] not in "ZX":
                yield Running(int(folder.name), int(told[19]), int(told[1]), int(told[3]))


def children(leader: int, word: str) -> list[int]:
    """Return the living descendants of a process whose command line has ``word`` in it."""
    alive = list(_running())
    family = {leader}
    grown = True
    while grown:
        more = {p.pid for p in alive if p.parent in family}
        grown = not more <= family
        family |= more
    return sorted(pid for pid in family - {leader} if word in _command_line(pid))


def _command_line(pid: int) -> str:
    with contextlib.suppress(OSError):
        return (
            Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        )
    return ""


def _carries(pid: int, marked: bytes) -> bool:
    with contextlib.suppress(OSError):
        return marked in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return False


@dataclass
class SuperLink:
    """A real ``flower-superlink``, and the name under which ``flwr run`` finds it.

    Its database is a file: without one a SuperLink that was started again refuses the SuperNodes
    that it knew, and they exit.

    Parameters
    ----------
    processes : Processes
        Started among them.
    name : str
        Of the connection.
    consortium : Path or None
        Folder of `fedstrata consortium`: TLS, registered keys and the roster; None for neither.
    """

    processes: Processes
    name: str = "testbed"
    consortium: Path | None = None
    fleet: int = field(default_factory=free_port)
    control: int = field(default_factory=free_port)
    appio: int = field(default_factory=free_port)
    process: Process | None = None

    def start(self) -> None:
        """Start it (again) and wait until its Fleet and Control ports answer."""
        connection = f'[superlink.{self.name}]\naddress = "127.0.0.1:{self.control}"\n'
        security, environment = ["--insecure"], {}
        if self.consortium is None:
            connection += "insecure = true\n"
        else:
            keys = self.consortium / "superlink"
            connection += f'root-certificates = "{keys / "ca.crt"}"\n'
            security = ["--enable-supernode-auth", "--ssl-ca-certfile", str(keys / "ca.crt")]
            security += ["--ssl-certfile", str(keys / "server.crt")]
            security += ["--ssl-keyfile", str(keys / "server.key")]
            environment = {"FEDSTRATA_ROSTER": str(keys / "roster.yaml")}
        config = self.processes.flower_home / "config.toml"
        if not config.exists() or config.read_text() != connection:  # others may be reading it
            config.write_text(connection)
        ports = {"fleet": self.fleet, "control": self.control, "serverappio": self.appio}
        addresses = [
            argument
            for api, port in ports.items()
            for argument in (f"--{api}-api-address", f"127.0.0.1:{port}")
        ]
        database = ["--database", str(self.processes.folder / "superlink.db")]
        command = ["flower-superlink", *security, *database, *addresses]
        started = self.processes.start("superlink", command, environment)
        self.processes.wait_for(
            "the SuperLink listens",
            lambda: listening(self.fleet) and listening(self.control),
            seconds=60,
            watch=[started],
        )
        self.process = started

    def kill(self) -> None:
        """End it at once, the ServerApp that runs in it included."""
        assert self.process is not None
        self.process.kill()


PLAINTEXT = ("--insecure",)


def start_supernode(
    processes: Processes,
    name: str,
    superlink: int,
    *options: str,
    node_config: Mapping[str, Any] | None = None,
    port: int | None = None,
    security: Sequence[str] = PLAINTEXT,
) -> Process:
    """Start a real SuperNode; it connects to the port ``superlink``.

    ``port`` is where the site's own process gets its work, and the SuperNode then ``fedstrata node``;
    where None it is ``flower-supernode``, which starts its app's processes itself.
    """
    program = ["flower-supernode"] if port is None else ["fedstrata", "node"]
    command = [*program, *security, "--superlink", f"127.0.0.1:{superlink}", *options]
    command += ["--clientappio-api-address", f"127.0.0.1:{port or free_port()}"]
    if node_config:
        pairs = (
            f'{key}="{value}"' if isinstance(value, str | Path) else f"{key}={value}"
            for key, value in node_config.items()
        )
        command += ["--node-config", " ".join(pairs)]
    return processes.start(name, command)


def start_site(processes: Processes, name: str, port: int, **settings: Any) -> Process:
    """Write the ``site.yaml`` of a site and start ``fedstrata site`` beside the SuperNode on ``port``.

    Everything of the site is in the folder ``name``, which is also what the site is called, and it
    shares ``common`` and ``task``, where ``settings`` does not say otherwise.
    """
    folder = processes.folder / name
    folder.mkdir(parents=True, exist_ok=True)
    told = {
        "site": name,
        "state": str(folder / "state"),
        "cache": str(folder / "cache"),
        "share": ["common", "task"],
        "threads": processes.threads or 1,
        **settings,
    }
    path = folder / "site.yaml"
    path.write_text(yaml.safe_dump(told))
    command = ["fedstrata", "site", "--settings", str(path), "--insecure"]
    command += ["--appio-api-address", f"127.0.0.1:{port}"]
    return processes.start(f"{name}-site", command)
