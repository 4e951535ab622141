"""Whoever reaches the Control port runs an app that reads no key, and hospitals do not reach it.

The attack is a ServerApp of twenty lines, submitted with nothing but ``ca.crt``. Run as the
SuperLink's user it printed the signing key, the keys of authority and server, and the database.
"""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.flower.consortia import new_consortium
from benchmarks.flower.deployment import superexec_command
from benchmarks.flower.processes import Processes, free_port
from consortium.members import Hospital
from server_app.superlink_owner import LISTENING
from tests.helpers.other_users import as_user, needs_root, own

pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(600),
    needs_root,
]

LINK, APP = 61001, 61002  # the SuperLink's user, and that of its ServerApps
EVERYWHERE = {"00000000", "0" * 32}
PYPROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "thief"
version = "0.0.1"
license = "Apache-2.0"
dependencies = []
[tool.hatch.build.targets.wheel]
packages = ["thief"]
[tool.flwr.app]
publisher = "thief"
[tool.flwr.app.components]
serverapp = "thief.app:server"
clientapp = "thief.app:client"
[tool.flwr.app.config]
wanted = ""
"""
THIEF = """
import logging, os
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

client = ClientApp()
server = ServerApp()
log = logging.getLogger("flwr")

@server.main()
def main(grid, context):
    log.info("thief: user %d", os.getuid())
    for name in context.run_config["wanted"].split():
        try:
            with open(name, "rb") as file:
                log.info("thief: has %s (%d bytes)", name, len(file.read(4096)))
        except OSError as error:
            log.info("thief: lacks %s (%s)", name, error.strerror)
    log.info("thief: done")
"""


@dataclass
class Coordinator:
    """The coordinator's machine: a consortium, and a SuperLink for which apps run as ``app``."""

    folder: Path
    processes: Processes
    app: int

    def __post_init__(self) -> None:
        self.ports = {name: free_port() for name in ("fleet", "control", "serverappio")}
        hospital = Hospital("north", "grade")
        self.us = new_consortium(self.folder / "us", ["127.0.0.1"], [hospital])

    def start(self) -> None:
        own(LINK, self.us / "superlink")
        own(self.app, self.us / "serverapp")
        if self.app == LINK:  # the way it was: all that the commands made is one user's
            own(LINK, self.folder / "authority", self.folder / "signing")
        addresses = [
            *("--fleet-api-address", f"0.0.0.0:{self.ports['fleet']}"),
            *("--control-api-address", f"127.0.0.1:{self.ports['control']}"),
            *("--serverappio-api-address", f"127.0.0.1:{self.ports['serverappio']}"),
        ]
        self.state = self.home(LINK) / "link"
        keys = ["--keys", str(self.us / "superlink"), "--state", str(self.state)]
        self.link = self.run_as(LINK, "fedstrata", "superlink", *keys, *addresses)
        self.run_as(self.app, *superexec_command(self.us, self.ports["serverappio"]))
        (self.processes.flower_home / "config.toml").write_text(
            f'[superlink.it]\naddress = "127.0.0.1:{self.ports["control"]}"\n'
            f'root-certificates = "{self.us / "public" / "ca.crt"}"\n'
        )

    def home(self, user: int) -> Path:
        home = self.folder / f"home-{user}"
        home.mkdir(mode=0o700, exist_ok=True)
        os.chown(home, user, user)
        return home

    def run_as(self, user: int, *command: str) -> object:
        home = str(self.home(user))
        homes = {"HOME": home, "FLWR_HOME": f"{home}/flwr", "FEDSTRATA_HOME": home}
        return self.processes.start(
            f"{Path(command[0]).name}-{user}", as_user(user, *command), homes
        )

    def wanted(self) -> list[Path]:
        """Return all that is secret here."""
        keys = [path for path in self.folder.rglob("*") if path.suffix in (".key", ".db")]
        return [*keys, Path(f"/proc/{self.link.popen.pid}/mem")]  # type: ignore[attr-defined]

    def rob(self) -> tuple[int, set[str], set[str]]:
        """Submit the thief's app; return its user, and the names of what it has and what it lacks."""
        app = self.folder / "thief"
        (app / "thief").mkdir(parents=True)
        (app / "pyproject.toml").write_text(PYPROJECT)
        (app / "thief" / "__init__.py").write_text("")
        (app / "thief" / "app.py").write_text(THIEF)
        wanted = " ".join(map(str, self.wanted()))
        command = ["flwr", "run", str(app), "it", "--stream", "-c", f'wanted="{wanted}"']
        submitted = self.processes.start("thief", command)
        said = self.processes.finish(submitted, seconds=180)
        assert "thief: done" in said, self.processes.logs()
        words = [line.partition("thief: ")[2].split() for line in said.splitlines()]
        found = {
            kind: {Path(w[1]).name for w in words if w[:1] == [kind]} for kind in ("has", "lacks")
        }
        (user,) = (int(w[1]) for w in words if w[:1] == ["user"])
        return user, found["has"], found["lacks"]


@pytest.fixture
def machine() -> Iterator[tuple[Path, Processes]]:
    # Not pytest's own folder: other users may not enter that.
    folder = Path(tempfile.mkdtemp(prefix="fedstrata-attack-"))
    folder.chmod(0o755)
    try:
        with Processes(folder / "processes") as processes:
            yield folder, processes
    finally:
        shutil.rmtree(folder)


def coordinator(machine: tuple[Path, Processes], app: int) -> Coordinator:
    made = Coordinator(*machine, app)
    made.start()
    ports = made.ports.values()
    made.processes.wait_for(
        "all ports are open",
        lambda: {port for _, port in listeners({LINK, app})} >= set(ports),
        seconds=120,
        watch=made.processes.started,
    )
    return made


def listeners(users: set[int]) -> set[tuple[str, int]]:
    """Return the local addresses, as /proc has them, on which processes of users listen."""
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            words = line.split()
            host, port = words[1].split(":")
            if words[3] == LISTENING and int(words[7]) in users:
                found.add((host, int(port, 16)))
    return found


def answers(address: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(2.0)
        return probe.connect_ex((address, port)) == 0


def test_an_app_of_another_user_reads_no_key(machine: tuple[Path, Processes]) -> None:
    there = coordinator(machine, APP)
    assert len([name for name in there.wanted() if name.suffix == ".key"]) == 5
    user, has, lacks = there.rob()
    assert user == APP
    assert has == set()
    assert lacks >= {"ca.key", "bundle.key", "server.key", "supernode.key", "superlink.db", "mem"}
    # From the hospitals' network nothing answers but the Fleet port.
    outside = {port for host, port in listeners({LINK, APP}) if host in EVERYWHERE}
    assert outside == {there.ports["fleet"]}
    for name, port in there.ports.items():
        assert answers("127.0.0.1", port)
        assert answers("127.0.0.2", port) == (name == "fleet"), name
    assert there.state.stat().st_mode & 0o077 == 0


def test_an_app_of_the_superlinks_user_reads_them(machine: tuple[Path, Processes]) -> None:
    user, has, _ = coordinator(machine, LINK).rob()
    assert user == LINK
    assert has >= {"ca.key", "bundle.key", "server.key", "superlink.db"}
    assert "supernode.key" not in has  # which hospitals make, and keep
