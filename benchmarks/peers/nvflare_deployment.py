"""A deployment of NVFlare: a server and sites as processes with TLS, from provisioned startup kits."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import yaml

from benchmarks.flower.processes import Process, Processes, free_port, listening
from benchmarks.flower.stock import STOCK_APP

PROJECT, SERVER, OPERATOR = "rounds", "localhost", "operator@bench.org"
JOB = Path(__file__).with_name("nvflare_job.py")
_BUILDERS = (
    "workspace.WorkspaceBuilder",
    "static_file.StaticFileBuilder",
    "cert.CertBuilder",
    "signature.SignatureBuilder",
)
# A line of the server's log, in local time: the average of a round is on the disk.
_SAVED = re.compile(
    r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}) - FedAvg - INFO - .*End persist model on server\.$",
    re.MULTILINE,
)
_ANSWER = re.compile(r" - FedAvg - INFO - .*Aggregated (\d+)/(\d+) results$", re.MULTILINE)


@dataclass
class NVFlare:
    """A server of NVFlare and its sites, and the job that they play.

    Parameters
    ----------
    processes : Processes
        Started among them.
    python : Path
        Of NVFlare's environment.
    sites : int
        How many; each is called ``site-<index>``.
    data : Path
        Folder of each site's examples, ``<index>.npz``.
    """

    processes: Processes
    python: Path
    sites: int
    data: Path
    port: int = field(default_factory=free_port)
    admin: int = field(default_factory=free_port)

    def start(self) -> Process:
        """Make the startup kits, start the server and the sites; return the server."""
        path = self._folder / "project.yml"
        path.parent.mkdir(parents=True)
        path.write_text(yaml.safe_dump(project(self.sites, self.port, self.admin)))
        program = str(self.python.with_name("nvflare"))
        made = [program, "provision", "--force", "-p", str(path), "-w", str(self._folder)]
        provisioned = self._start("provision", made)
        self.processes.finish(provisioned, seconds=120)
        if not self._kit(SERVER).is_dir():
            raise SystemExit(f"NVFlare made no startup kits:\n{self.processes.logs()}")
        server = self._start_kit(SERVER)
        self.processes.wait_for(
            "NVFlare's server listens", lambda: listening(self.port), seconds=120, watch=[server]
        )
        for index in range(self.sites):
            self._start_kit(f"site-{index}")
        return server

    def submit(self, rounds: int, *, batch: int, rate: float) -> Process:
        """Start the program that submits the job and waits for its end."""
        self._seconds.mkdir()
        options = {
            "kit": self._kit(OPERATOR),
            "user": OPERATOR,
            "folder": self._folder / "job",
            "data": self.data,
            "seconds": self._seconds,
            "sites": self.sites,
            "rounds": rounds,
            "batch-size": batch,
            "lr": rate,
        }
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        return self._start("job", [str(self.python), str(JOB), *words])

    def rounds(
        self, server: Process, run: Process, rounds: int, *, patience: float
    ) -> tuple[list[float], list[float]]:
        """Wait for the end of ``run``; return when each round ended, and the slowest site's seconds."""
        self.processes.finish(run, seconds=patience)
        if run.popen.returncode:
            raise SystemExit(f"NVFlare's job did not complete:\n{self.processes.logs()}")
        return round_ends(server.text, self.sites, rounds), self._worked(rounds)

    @property
    def _folder(self) -> Path:
        return self.processes.folder / "nvflare"

    @property
    def _seconds(self) -> Path:
        return self._folder / "seconds"

    def _kit(self, name: str) -> Path:
        return self._folder / PROJECT / "prod_00" / name

    def _start_kit(self, name: str) -> Process:
        script = self._kit(name) / "startup" / "sub_start.sh"
        return self._start(name, ["bash", str(script), "--once"])  # it does not start itself again

    def _start(self, name: str, command: list[str]) -> Process:
        """Start a program in NVFlare's environment, with nothing of the user's own settings."""
        local = "localhost,127.0.0.1"
        environment = {
            "HOME": str(self.processes.home),
            "PATH": f"{self.python.parent}{os.pathsep}{os.environ.get('PATH', '')}",
            "PYTHONPATH": str(STOCK_APP),  # the network, the data and the loops
            "no_proxy": local,
            "NO_PROXY": local,
        }
        return self.processes.start(name, command, environment)

    def _worked(self, rounds: int) -> list[float]:
        paths = [self._seconds / f"site-{index}.jsonl" for index in range(self.sites)]
        return slowest([path.read_text() if path.exists() else "" for path in paths], rounds)


def project(sites: int, port: int, admin: int) -> dict[str, object]:
    """Return what `nvflare provision` reads: a server of this machine, sites, and an operator."""
    participants: list[dict[str, object]] = [
        {"name": f"site-{index}", "type": "client"} for index in range(sites)
    ]
    participants += [
        {"name": SERVER, "type": "server", "fed_learn_port": port, "admin_port": admin},
        {"name": OPERATOR, "type": "admin", "role": "project_admin"},
    ]
    return {
        "api_version": 3,
        "name": PROJECT,
        "description": "deployed rounds",
        "participants": [{**each, "org": "bench"} for each in participants],
        "builders": [{"path": f"nvflare.lighter.impl.{name}"} for name in _BUILDERS],
    }


def round_ends(log: str, sites: int, rounds: int) -> list[float]:
    """Return when each round's average was saved, in seconds of the clock, from the server's log.

    Exits where a round or an answer is missing: the measurement would then be of something else.
    """
    ends = [
        datetime.strptime(text, "%Y-%m-%d %H:%M:%S,%f").timestamp() for text in _SAVED.findall(log)
    ]
    if len(ends) != rounds:
        raise SystemExit(
            f"NVFlare: the log has the ends of {len(ends)} rounds, not {rounds}:\n{log}"
        )
    answers = _ANSWER.findall(log)
    if answers != [(str(each), str(sites)) for _ in range(rounds) for each in range(1, sites + 1)]:
        raise SystemExit(f"NVFlare: {len(answers)} answers of {rounds * sites} came:\n{log}")
    return ends


def slowest(notes: list[str], rounds: int) -> list[float]:
    """Return the longest work of each round in seconds, of what each site noted.

    ``notes`` has one text a site, with a line of JSON a round. Exits where a site missed a round.
    """
    worked = [[json.loads(line) for line in text.splitlines()] for text in notes]
    for site, lines in enumerate(worked):
        if [line["round"] for line in lines] != list(range(rounds)):
            raise SystemExit(f"NVFlare: site-{site} noted the rounds {lines}, not {rounds}")
    return [max(lines[number]["seconds"] for lines in worked) for number in range(rounds)]
