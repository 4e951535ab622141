"""What the operator asks of a SuperLink: submit a run, list runs and nodes, register a key."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedstrata.support.errors import UserError

SECONDS = 60.0
# Words of `flwr` for a SuperLink that did not answer, and gRPC's for one that fell over its own work.
_AWAY = (
    "UNAVAILABLE",
    "unavailable",
    "failed to connect",
    "Connection refused",
    "Exception calling application",
)
# What gRPC calls it where the SuperLink is well, and says no.
_REFUSED = (
    "UNAUTHENTICATED",
    "PERMISSION_DENIED",
    "INVALID_ARGUMENT",
    "FAILED_PRECONDITION",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
)
# A line of Flower's log that begins so, and not one that a site's words are in.
_COMPLETE = re.compile(
    r"^(?:\x1b\[\d+m)?INFO (?:[-\d]+ [:,\d]+)?(?:\x1b\[0m)?:\s+round (\d+)/\d+: ", re.MULTILINE
)


class Away(UserError):
    """The SuperLink did not answer, or failed; whether it did what it was asked is not known.

    It fails where its database is locked for longer than it waits, by its own writing too.
    """


@dataclass(frozen=True)
class SubmittedRun:
    """A run of a SuperLink: its id, the name it was given, how it stands, and what Flower says of it."""

    id: int
    name: str
    status: str
    details: str = ""

    @property
    def ended(self) -> bool:
        """Whether it has come to an end, good or bad."""
        return self.status.startswith("finished")


@dataclass(frozen=True)
class SuperLink:
    """A SuperLink's Control API.

    Parameters
    ----------
    connection : str
        Its name in Flower's configuration.
    """

    connection: str

    def submit(self, app: str, run_config: Mapping[str, str]) -> int:
        """Submit the app in a folder; return the run's id.

        Raises
        ------
        Away
            The SuperLink did not answer; it may have taken the run nevertheless.
        UserError
            It said no, with its reason.
        """
        pairs = " ".join(f'{key}="{value}"' for key, value in run_config.items())
        return int(flower("run", app, self.connection, "-c", pairs)["run-id"])

    def register(self, public_key: Path) -> int:
        """Register the public key in a file; return its node's id; raise as `submit` does."""
        return int(flower("supernode", "register", str(public_key), self.connection)["node-id"])

    def runs(self) -> tuple[SubmittedRun, ...]:
        """Return all runs, the oldest first; raise as `submit` does."""
        from flwr.common.serde import run_from_proto
        from flwr.proto.control_pb2 import ListRunsRequest

        with self._control() as control:
            told = control.ListRuns(ListRunsRequest(), timeout=SECONDS)
        runs = sorted(map(run_from_proto, told.run_dict.values()), key=lambda run: run.pending_at)
        return tuple(
            SubmittedRun(
                run.run_id,
                str(run.override_config.get("name", "")),
                ":".join(filter(None, (run.status.status, run.status.sub_status))),
                run.status.details,
            )
            for run in runs
        )

    def rounds(self, run_id: int) -> int:
        """Return the last round that a run which has ended says it completed, 0 for none."""
        from flwr.proto.control_pb2 import StreamLogsRequest

        with self._control() as control:
            told = control.StreamLogs(StreamLogsRequest(run_id=run_id), timeout=SECONDS)
            text = "".join(part.log_output for part in told)
        return last_round(text)

    def nodes(self) -> dict[bytes, int]:
        """Return the ids of all registered nodes by public key, PEM; raise as `submit` does."""
        from flwr.proto.control_pb2 import ListNodesRequest

        with self._control() as control:
            told = control.ListNodes(ListNodesRequest(), timeout=SECONDS)
        return {
            node.public_key: node.node_id
            for node in told.nodes_info
            if node.status != "unregistered"
        }

    @contextmanager
    def _control(self) -> Iterator[Any]:
        """Yield what `flwr list` speaks through, whose JSON lacks names of runs and keys of nodes."""
        import grpc
        from flwr.proto.control_pb2_grpc import ControlStub

        channel = self._channel()
        try:
            yield ControlStub(channel)
        except grpc.RpcError as error:
            why = (error.details() or "").partition("\n")[0]  # a failed query has many lines
            told = f"{self.connection}: {error.code().name}: {why}"
            refused = {getattr(grpc.StatusCode, name) for name in _REFUSED}
            raise (UserError if error.code() in refused else Away)(told) from None
        finally:
            channel.close()

    def _channel(self) -> Any:
        """Open a channel as Flower's own commands do, but for the thread that watches its state.

        That thread dies with a traceback where the channel is closed at once.
        """
        import click
        from flwr.cli.cli_account_auth_interceptor import CliAccountAuthInterceptor
        from flwr.cli.config_utils import load_certificate_in_connection
        from flwr.cli.flower_config import read_superlink_connection
        from flwr.cli.local_superlink import ensure_local_superlink
        from flwr.cli.utils import load_cli_auth_plugin_from_connection
        from flwr.common.grpc import GRPC_MAX_MESSAGE_LENGTH, create_channel
        from flwr.supercore.interceptors import RuntimeVersionClientInterceptor

        try:
            connection = ensure_local_superlink(read_superlink_connection(self.connection))
            address = str(connection.address)
            certificates = load_certificate_in_connection(connection)
            account = load_cli_auth_plugin_from_connection(address)
        except (click.ClickException, ValueError) as error:
            raise UserError(f"{self.connection}: {error}") from None
        account.load_tokens()
        return create_channel(
            server_address=address,
            insecure=bool(connection.insecure),
            root_certificates=certificates,
            max_message_length=GRPC_MAX_MESSAGE_LENGTH,
            interceptors=[
                RuntimeVersionClientInterceptor(component_name="flwr CLI"),
                CliAccountAuthInterceptor(account),
            ],
        )


def last_round(log: str) -> int:
    """Return the last round that is complete by a ServerApp's log, 0 for none."""
    return max(map(int, _COMPLETE.findall(log)), default=0)


def flower(*command: str, seconds: float = SECONDS) -> dict[str, Any]:
    """Run a command of ``flwr`` and return the JSON that it prints.

    Raises
    ------
    Away
        The SuperLink did not answer.
    UserError
        The command failed; with what it said.
    """
    program = Path(sys.executable).parent / "flwr"
    said = f"`flwr {' '.join(command)}`"
    try:
        done = subprocess.run(
            [program, *command, "--format", "json"],
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        raise Away(f"{said} did not end within {seconds:g} s") from None
    except OSError as error:
        raise UserError(
            f"{program}: {error.strerror}: install Flower beside this Python, `pip install -e .`"
        ) from None
    told = _json(done.stdout)
    if told is None or not told.get("success"):
        said_so = (told or {}).get("error-message") or done.stderr.strip() or done.stdout.strip()
        why = str(said_so)[-2000:]
        raise (Away if any(word in why for word in _AWAY) else UserError)(f"{said}: {why}")
    return told


def _json(text: str) -> dict[str, Any] | None:
    """Return the JSON object in what a command printed; some lines before it are for people."""
    begin = text.find("{")
    try:
        told = json.JSONDecoder().raw_decode(text[begin:])[0] if begin >= 0 else None
    except json.JSONDecodeError:
        return None
    return told if isinstance(told, dict) else None
