"""What the coordinator asks of a SuperLink: submit a run, list runs and nodes, register a key.

The Control API has no public client, and what `flwr` prints lacks names of runs and keys of nodes.
So Flower's insides are used here, tested with Flower 1.31.
"""

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

SECONDS = 60.0  # for one call or command
LOOK = 1.0  # for what a run that goes on has said
# Words of `flwr` for a SuperLink that did not answer, and of gRPC for one that failed.
_AWAY = (
    "UNAVAILABLE",
    "unavailable",
    "failed to connect",
    "Connection refused",
    "Exception calling application",
)
# gRPC's codes of a SuperLink that works, and refuses.
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
# Only at the beginning of a line of Flower's log: further on there may be a site's own words.
_BEGIN = r"^(?:\x1b\[\d+m)?INFO (?:[-\d]+ [:,\d]+)?(?:\x1b\[0m)?:\s+"
_COMPLETE = re.compile(_BEGIN + r"round (\d+)/\d+: ", re.MULTILINE)
_MEASURED = re.compile(_BEGIN + r"round \d+/\d+: .*as received: ([^\x00-\x1f\x7f]+)$", re.MULTILINE)
_MEAN = re.compile(
    _BEGIN + r"mean over the sites, each site alike: ([^\x00-\x1f\x7f]+)$", re.MULTILINE
)
_FOLDER = re.compile(_BEGIN + r"run \S+: results go to ([^\x00-\x1f\x7f]+)$", re.MULTILINE)
_RESULTS = re.compile(_BEGIN + r"((?:results|fetch them): [^\x00-\x1f\x7f]+)$", re.MULTILINE)


class Away(UserError):
    """The SuperLink did not answer, or failed; whether it did the work is not known.

    It fails if its database is locked for longer than it waits, by its own writing too.
    """


@dataclass(frozen=True)
class SubmittedRun:
    """A run of a SuperLink: its id, its name, its status, and Flower's details of it."""

    id: int
    name: str
    status: str
    details: str = ""

    @property
    def ended(self) -> bool:
        """Whether it has ended, well or badly."""
        return self.status.startswith("finished")


@dataclass(frozen=True)
class Outcome:
    """What a run's log says of it so far.

    Parameters
    ----------
    round : int
        The last complete round; 0 for none.
    result : str
        The measures at the end, or else of the last round; "" before any.
    folder : str
        Where results are, on the machine of the ServerApp; "" where it does not say so.
    """

    round: int
    result: str
    folder: str


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
            The SuperLink did not answer; it may have started the run all the same.
        UserError
            It refused, with its reason.
        """
        # Values are texts in quotes, for TOML reads a bare one as a number or not at all.
        pairs = " ".join(f'{key}="{value}"' for key, value in run_config.items())
        return int(run_flwr("run", app, self.connection, "-c", pairs)["run-id"])

    def register(self, public_key: Path) -> int:
        """Register the public key in a file; return its node's id; raise as `submit` does."""
        return int(run_flwr("supernode", "register", str(public_key), self.connection)["node-id"])

    def unregister(self, node_id: int) -> None:
        """Unregister a node, whose key is then never taken again; raise as `submit` does."""
        run_flwr("supernode", "unregister", str(node_id), self.connection)

    def runs(self) -> tuple[SubmittedRun, ...]:
        """Return all runs, the oldest first; raise as `submit` does."""
        from flwr.common.serde import run_from_proto
        from flwr.proto.control_pb2 import ListRunsRequest

        with self._control() as control:
            response = control.ListRuns(ListRunsRequest(), timeout=SECONDS)
        runs = sorted(
            map(run_from_proto, response.run_dict.values()), key=lambda run: run.pending_at
        )
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
        """Return the last round that an ended run completed, by its log; 0 for none."""
        return last_round(self._log(run_id))

    def outcome(self, run: SubmittedRun) -> Outcome:
        """Return what came of a run, ended or not, by its log."""
        return outcome(self._log(run.id) if run.ended else self.log_after(run.id, 0.0)[0])

    def results(self, run_id: int) -> tuple[str, ...]:
        """Return the lines of an ended run's log that say where its results are."""
        return last_results(self._log(run_id))

    def log_after(self, run_id: int, after: float) -> tuple[str, float]:
        """Return what a run said after a time, and the time of the last of it; waits for a second."""
        import grpc
        from flwr.proto.control_pb2 import StreamLogsRequest

        texts, latest = [], after
        with self._control() as control:
            request = StreamLogsRequest(run_id=run_id, after_timestamp=after)
            try:
                for part in control.StreamLogs(request, timeout=LOOK):
                    texts.append(part.log_output)
                    latest = max(latest, part.latest_timestamp)
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:  # the run goes on
                    raise
        return "".join(texts), latest

    def _log(self, run_id: int) -> str:
        from flwr.proto.control_pb2 import StreamLogsRequest

        with self._control() as control:
            response = control.StreamLogs(StreamLogsRequest(run_id=run_id), timeout=SECONDS)
            return "".join(part.log_output for part in response)

    def nodes(self) -> dict[bytes, int]:
        """Return the ids of all registered nodes by public key, PEM; raise as `submit` does."""
        from flwr.proto.control_pb2 import ListNodesRequest

        with self._control() as control:
            response = control.ListNodes(ListNodesRequest(), timeout=SECONDS)
        return {
            node.public_key: node.node_id
            for node in response.nodes_info
            if node.status != "unregistered"
        }

    @contextmanager
    def _control(self) -> Iterator[Any]:
        """Yield the client of the Control API; raise Away or UserError for gRPC's errors."""
        import grpc
        from flwr.proto.control_pb2_grpc import ControlStub

        channel = self._channel()
        try:
            yield ControlStub(channel)
        except grpc.RpcError as error:
            why = (error.details() or "").partition("\n")[0]  # a failed query has many lines
            text = f"{self.connection}: {error.code().name}: {why}"
            refused = {getattr(grpc.StatusCode, name) for name in _REFUSED}
            raise (UserError if error.code() in refused else Away)(text) from None
        finally:
            channel.close()

    def _channel(self) -> Any:
        """Open a channel as Flower's own commands do, but without a thread that watches its state.

        That thread ends with a traceback if the channel is closed at once.
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
    """Return the last complete round in a ServerApp's log; 0 for none."""
    return max(map(int, _COMPLETE.findall(log)), default=0)


def outcome(log: str) -> Outcome:
    """Return what a ServerApp's log says of its last run."""
    measured, folders = _MEAN.findall(log) or _MEASURED.findall(log), _FOLDER.findall(log)
    return Outcome(last_round(log), *(each[-1] if each else "" for each in (measured, folders)))


def last_results(log: str) -> tuple[str, ...]:
    """Return the lines at the end of a ServerApp's log that say where results are, each once."""
    return tuple(dict.fromkeys(_RESULTS.findall(log)))


def run_flwr(*command: str, seconds: float = SECONDS) -> dict[str, Any]:
    """Run a command of ``flwr`` and return the JSON that it prints.

    Raises
    ------
    Away
        The SuperLink did not answer.
    UserError
        The command failed, with its message.
    """
    program = Path(sys.executable).parent / "flwr"
    line = f"`flwr {' '.join(command)}`"
    try:
        done = subprocess.run(
            [program, *command, "--format", "json"],
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
            stdin=subprocess.DEVNULL,  # `flwr` must not ask anybody anything
        )
    except subprocess.TimeoutExpired:
        raise Away(f"{line} did not end within {seconds:g} s") from None
    except OSError as error:
        raise UserError(
            f"{program}: {error.strerror}: install Flower beside this Python, `pip install -e .`"
        ) from None
    result = _json(done.stdout)
    if result is None or not result.get("success"):
        message = (result or {}).get("error-message") or done.stderr.strip() or done.stdout.strip()
        why = str(message)[-2000:]
        raise (Away if any(word in why for word in _AWAY) else UserError)(f"{line}: {why}")
    return result


def _json(text: str) -> dict[str, Any] | None:
    """Return the JSON object in a command's output; lines before it are for people."""
    begin = text.find("{")
    try:
        found = json.JSONDecoder().raw_decode(text[begin:])[0] if begin >= 0 else None
    except json.JSONDecodeError:
        return None
    return found if isinstance(found, dict) else None
