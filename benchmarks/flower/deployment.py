"""A deployment on this machine: a real SuperLink, SuperNodes, and the sites' own processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from benchmarks.flower.processes import Process, Processes, free_port, listening

PLAINTEXT = ("--insecure",)


@dataclass
class SuperLink:
    """A real ``flower-superlink``, and the name under which ``flwr run`` finds it.

    Parameters
    ----------
    processes : Processes
        Started among them.
    name : str
        Of the connection.
    consortium : Path or None
        Folder of `fedstrata consortium`: TLS and registered keys, for ours also the roster, and
        ServerApps in a process of their own; None for none of it.
    stock : bool
        It is Flower's own program, not `fedstrata superlink`.
    simulation : bool
        It simulates the sites itself, and no SuperNode connects to it.
    """

    processes: Processes
    name: str = "testbed"
    consortium: Path | None = None
    stock: bool = False
    simulation: bool = False
    fleet: int = field(default_factory=free_port)
    control: int = field(default_factory=free_port)
    appio: int = field(default_factory=free_port)
    process: Process | None = None
    superexec: Process | None = None

    def start(self) -> None:
        """Start it (again) and wait until its ports answer."""
        config = self.processes.flower_home / "config.toml"
        connection = self._connection()
        if not config.exists() or config.read_text() != connection:  # others may be reading it
            config.write_text(connection)
        started = self.processes.start("superlink", self._command())
        ports = (self.control,) if self.simulation else (self.fleet, self.control)
        self.processes.wait_for(
            "the SuperLink listens",
            lambda: all(map(listening, ports)),
            seconds=60,
            watch=[started],
        )
        self.process = started
        if self.consortium is not None and not self.stock and self.superexec is None:
            environment = {"FEDSTRATA_ROSTER": str(self.consortium / "roster" / "roster.yaml")}
            command = superexec_command(self.consortium, self.appio)
            self.superexec = self.processes.start("superexec", command, environment)

    @property
    def leaders(self) -> list[int]:
        """Process ids of the SuperLink and of the SuperExec; ServerApps are children of one of them."""
        return [each.popen.pid for each in (self.process, self.superexec) if each is not None]

    def kill(self) -> None:
        """End it at once, and where it runs the ServerApp too, also that."""
        assert self.process is not None
        self.process.kill()

    def _connection(self) -> str:
        """Return Flower's configuration file, with this connection alone."""
        text = f'[superlink.{self.name}]\naddress = "127.0.0.1:{self.control}"\n'
        if self.consortium is None:
            return text + "insecure = true\n"
        return text + f'root-certificates = "{self.consortium / "public" / "ca.crt"}"\n'

    def _command(self) -> list[str]:
        ports = {"control": self.control, "serverappio": self.appio}
        if self.simulation:
            command = ["flower-superlink", "--insecure", "--simulation"]
        elif self.stock:
            # In a file: a SuperLink that is started again without it refuses the SuperNodes that it
            # knew, and they exit.
            database = str(self.processes.folder / "superlink.db")
            command = ["flower-superlink", *self._stock_security(), "--database", database]
        elif self.consortium is not None:
            keys = ["--keys", str(self.consortium / "superlink")]
            command = [
                "fedstrata",
                "superlink",
                *keys,
                "--state",
                str(self.processes.folder / "link"),
            ]
        else:
            state = ["--state", str(self.processes.folder / "link")]
            command = ["fedstrata", "superlink", "--insecure", *state, "--isolation", "subprocess"]
        if not self.simulation:
            ports["fleet"] = self.fleet
        for api, port in ports.items():
            command += [f"--{api}-api-address", f"127.0.0.1:{port}"]
        return command

    def _stock_security(self) -> list[str]:
        """Return Flower's own options for what `fedstrata superlink` makes of ``--keys``."""
        if self.consortium is None:
            return [*PLAINTEXT]
        files = {"ca-certfile": "ca.crt", "certfile": "server.crt", "keyfile": "server.key"}
        keys = self.consortium / "superlink"
        words = [
            word for name, file in files.items() for word in (f"--ssl-{name}", str(keys / file))
        ]
        return [*words, "--enable-supernode-auth"]


def superexec_command(consortium: Path, port: int) -> list[str]:
    """Return the command that runs the ServerApps of the SuperLink whose ServerAppIo is on ``port``."""
    secret = str(consortium / "serverapp" / "appio.secret")
    address = ["--appio-api-address", f"127.0.0.1:{port}"]
    plugin = ["--plugin-type", "serverapp", "--insecure", "--superexec-auth-secret-file", secret]
    return ["flower-superexec", *address, *plugin]


# Rules of a site for measurements: quick ones have a batch or two, and some networks are perceptrons.
ANY_PLAN = {"models": ["*"], "min-batch-size": 1, "min-steps": 1, "min-examples": 1}


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

    ``port`` is where the site's own process gets its work; the program is then ``fedstrata node``.
    Without it the program is ``flower-supernode``, which starts the app's processes itself.
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

    The site is called ``name``, and so is the folder of all that it keeps. It shares ``common`` and
    ``task``, unless ``settings`` says otherwise.
    """
    folder = processes.folder / name
    folder.mkdir(parents=True, exist_ok=True)
    written = {
        "site": name,
        "state": str(folder / "state"),
        "cache": str(folder / "cache"),
        "share": ["common", "task"],
        **({} if processes.threads is None else {"threads": processes.threads}),
        **settings,
    }
    path = folder / "site.yaml"
    path.write_text(yaml.safe_dump(written))
    command = ["fedstrata", "site", "--settings", str(path), "--insecure"]
    command += ["--appio-api-address", f"127.0.0.1:{port}"]
    return processes.start(f"{name}-site", command)


def start_warm_site(
    processes: Processes,
    name: str,
    superlink: int,
    *,
    task: str,
    security: Sequence[str] = PLAINTEXT,
    **settings: Any,
) -> None:
    """Start a SuperNode on the Fleet port ``superlink``, and beside it the site's own process."""
    port = free_port()
    options = ("--isolation", "process")
    node = start_supernode(
        processes, f"{name}-node", superlink, *options, port=port, security=security
    )
    processes.wait_for("the SuperNode", lambda: listening(port), seconds=90, watch=[node])
    start_site(processes, name, port, task=task, **settings)
