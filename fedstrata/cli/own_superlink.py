"""A SuperLink of one run's own: on a free port, in a home of its own, ended with the run.

Flower's insides are used here, tested with Flower 1.31.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

from fedstrata.support.errors import UserError
from fedstrata.support.said_lines import VARIABLE

SECONDS = 60.0  # for the SuperLink to start, and for one call
PATIENCE = 8.0  # for its processes to end before they are killed
PROC = Path("/proc")
HERE = "localhost,127.0.0.1"
COMPLETED = "finished:completed"


class OwnSuperLink:
    """A local SuperLink for simulations, as a context: all that it started ends with the block.

    Parameters
    ----------
    log : IO
        Where it, Flower's simulation and Ray write.
    variables : mapping of str to str
        The environment.
    """

    def __init__(self, log: IO[bytes], variables: Mapping[str, str] = os.environ) -> None:
        self._log, self._variables = log, variables
        self._channel: Any = None
        self._copying: threading.Thread | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._watchman: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> OwnSuperLink:
        # Short, for the paths of Ray's sockets lie below it.
        self.home = Path(tempfile.mkdtemp(prefix="fedstrata-"))
        self.said = self.home / "said"
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def submit(
        self, bundle: bytes, run_config: Mapping[str, str], resources: Mapping[str, float]
    ) -> int:
        """Submit a run of the app bundle; return its id.

        Parameters
        ----------
        bundle : bytes
            The app bundle.
        run_config : mapping of str to str
            What `flwr run -c` would give.
        resources : mapping of str to float
            Fields of Flower's ``SimulationConfig``, such as ``num_supernodes``.
        """
        import hashlib

        from flwr.common.serde import fab_to_proto, user_config_to_proto
        from flwr.common.typing import Fab
        from flwr.proto.control_pb2 import StartRunRequest
        from flwr.proto.federation_config_pb2 import SimulationConfig

        request = StartRunRequest(
            fab=fab_to_proto(Fab(hashlib.sha256(bundle).hexdigest(), bundle, {})),
            override_config=user_config_to_proto(dict(run_config)),
            override_federation_config=SimulationConfig(),
        )
        for name, value in resources.items():
            setattr(request.override_federation_config, name, value)
        answer = self._stub().StartRun(request, timeout=SECONDS)
        if not answer.HasField("run_id"):
            raise UserError("Flower's SuperLink started no run, and gave no reason")
        run_id = int(answer.run_id)
        self._copying = threading.Thread(target=self._copy_log, args=(run_id,), daemon=True)
        self._copying.start()
        return run_id

    def finish_log(self) -> None:
        """Wait until all that an ended run has written is in the log."""
        if self._copying is not None:
            self._copying.join(PATIENCE)

    def _copy_log(self, run_id: int) -> None:
        """Copy what the simulation writes, which its SuperLink keeps, into the log as it comes."""
        import grpc
        from flwr.proto.control_pb2 import StreamLogsRequest

        # Ended with the channel, and by a SuperLink that ends.
        with contextlib.suppress(grpc.RpcError, ValueError, OSError):
            for part in self._stub().StreamLogs(StreamLogsRequest(run_id=run_id)):
                self._log.write(part.log_output.encode())
                self._log.flush()

    def status(self, run_id: int) -> str:
        """Return how a run is: ``running``, or ``finished:`` and how."""
        import grpc
        from flwr.proto.control_pb2 import ListRunsRequest

        if self._process is None or self._process.poll() is not None:
            return "finished:failed"
        try:
            answer = self._stub().ListRuns(ListRunsRequest(run_id=run_id), timeout=SECONDS)
        except grpc.RpcError:  # it was ended meanwhile, or is: the next look says so
            return "running"
        status = answer.run_dict[run_id].status
        return ":".join(filter(None, (status.status, status.sub_status)))

    def close(self) -> None:
        """End every process that the SuperLink started, and it too; remove its home."""
        if self._channel is not None:
            self._channel.close()
        end_all(self.home, PATIENCE)
        for process in (self._process, self._watchman):
            if process is not None:
                if process.stdin is not None:
                    process.stdin.close()  # the watchman's: it ends
                process.wait()

    def _start(self) -> None:
        self._port = free_port()
        programs = Path(sys.executable).parent
        # If this process is killed, it cannot end the others: this one does, at the end of its input.
        self._watchman = subprocess.Popen(
            [sys.executable, "-m", __name__, str(self.home)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._log,
            start_new_session=True,
        )
        command = [
            shutil.which("flower-superlink", path=str(programs)) or "flower-superlink",
            *("--insecure", "--simulation", "--isolation", "subprocess"),
            *("--control-api-address", f"127.0.0.1:{self._port}"),
            *("--serverappio-api-address", "127.0.0.1:0"),
        ]
        try:
            self._process = subprocess.Popen(
                command,
                env=environment(self._variables, self.home, self.said),
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the command, which ends all in order
            )
        except OSError as error:
            raise UserError(
                f"flower-superlink: {error.strerror}: install Flower beside this Python, "
                "`pip install 'fedstrata[simulation]'`"
            ) from None
        deadline = time.monotonic() + SECONDS
        while not _listening(self._port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise UserError("Flower's SuperLink did not start; its log says why")
            time.sleep(0.05)

    def _stub(self) -> Any:
        import grpc
        from flwr.proto.control_pb2_grpc import ControlStub

        if self._channel is None:
            options = [
                ("grpc.enable_http_proxy", 0),
                ("grpc.max_send_message_length", 2**30),
                ("grpc.max_receive_message_length", 2**30),
            ]
            self._channel = grpc.insecure_channel(f"127.0.0.1:{self._port}", options)
        return ControlStub(self._channel)


def end_all(home: Path, patience: float) -> None:
    """End every process whose ``FLWR_HOME`` is ``home``, and remove that folder."""
    ends = time.monotonic() + patience
    _send(signal.SIGTERM, processes_of(home))
    while left := processes_of(home):
        if time.monotonic() > ends:
            _send(signal.SIGKILL, left)
        time.sleep(0.05)
    shutil.rmtree(home, ignore_errors=True)


def processes_of(home: Path) -> list[int]:
    """Return the living processes that have ``home`` as ``FLWR_HOME`` in their environment."""
    mark = f"FLWR_HOME={home}".encode()
    found = []
    for folder in PROC.glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended, or is another user's
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found


def _send(number: signal.Signals, processes: Iterable[int]) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(process, number)


def environment(variables: Mapping[str, str], home: Path, said: Path) -> dict[str, str]:
    """Return the environment of a SuperLink whose home is ``home``."""
    programs = Path(sys.executable).parent
    proxies = {
        name: ",".join(filter(None, (variables.get(name, ""), HERE)))
        for name in ("no_proxy", "NO_PROXY")
    }
    return {
        **variables,
        **proxies,  # gRPC would ask a proxy for this machine itself
        "FLWR_HOME": str(home),
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "PATH": f"{programs}{os.pathsep}{variables.get('PATH', '')}",
        "PYTHONUNBUFFERED": "1",
        VARIABLE: str(said),
    }


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _listening(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


if __name__ == "__main__":
    sys.stdin.buffer.read()  # until the process that holds the other end has ended
    end_all(Path(sys.argv[1]), PATIENCE)
