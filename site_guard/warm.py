"""The app's process at a site: started once, kept warm, fed messages over a pipe of plain bytes."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

import msgspec
from flwr.app import Context, Message
from flwr.common.serde import context_from_proto, context_to_proto, message_to_proto
from flwr.common.serde import recorddict_from_proto as records_from_proto
from flwr.proto.message_pb2 import Context as ProtoContext
from flwr.proto.recorddict_pb2 import RecordDict as ProtoRecordDict

logger = logging.getLogger("flwr")
MOST_ANSWERED = 1 << 31  # bytes that the app's process may answer with
GRACE = 5.0  # seconds to end by itself
STEP = 0.5  # seconds between two looks whether the site is to end


class AppFailed(RuntimeError):
    """The app's process has no answer; the text says why, without anything of the site's data."""


class Task(msgspec.Struct, frozen=True):
    """What the app's process needs besides the message: which app, and which kind of work."""

    app: str
    app_id: str
    version: str
    digest: str


class Outcome(msgspec.Struct, frozen=True):
    """What the app's process did: it answered, or ``error`` says what kind of failure it was."""

    error: str


@dataclass
class WarmProcess:
    """One process that runs one app bundle, and is there for the next message.

    Parameters
    ----------
    keep_warm : float
        Seconds without work after which the process ends and gives its memory back.
    gpu_memory : float
        The largest share of the GPU's memory.
    threads : int or None
        CPU threads.
    started : int
        How often a process was started.
    stopping : Event
        Set where the site's process is to end: work in progress is given up.
    """

    keep_warm: float
    gpu_memory: float = 1.0
    threads: int | None = None
    started: int = 0
    stopping: threading.Event = field(default_factory=threading.Event)
    _process: subprocess.Popen[bytes] | None = None
    _pipe: Connection | None = None
    _digest: str = ""
    _used: float = field(default_factory=time.monotonic)

    @property
    def process_id(self) -> int | None:
        """The process's id while it runs."""
        alive = self._process is not None and self._process.poll() is None
        return self._process.pid if alive and self._process else None

    def run(self, task: Task, message: Message, context: Context, seconds: float) -> Message:
        """Let the app answer ``message``; return what it answered, not looked at yet.

        ``context`` is changed as the app changed it. Another bundle gets a process of its own.

        Raises
        ------
        AppFailed
            The app raised, its process died, or it took longer than ``seconds``.
        """
        if self._digest and self._digest != task.digest:
            logger.info("another app bundle: its process starts afresh")
            self.stop()
        self._start()
        self._digest = task.digest
        assert self._pipe is not None
        try:
            self._pipe.send_bytes(msgspec.json.encode(task))
            self._pipe.send_bytes(message_to_proto(message).SerializeToString())
            self._pipe.send_bytes(context_to_proto(context).SerializeToString())
            self._wait(self._pipe, seconds)
            outcome = msgspec.json.decode(self._pipe.recv_bytes(MOST_ANSWERED), type=Outcome)
            if outcome.error:
                raise AppFailed(outcome.error)
            content = ProtoRecordDict.FromString(self._pipe.recv_bytes(MOST_ANSWERED))
            kept = ProtoContext.FromString(self._pipe.recv_bytes(MOST_ANSWERED))
        except (OSError, EOFError) as error:
            raise AppFailed(self._died(error)) from None
        finally:
            self._used = time.monotonic()
        context.state = context_from_proto(kept).state
        return Message(records_from_proto(content), reply_to=message)

    def _wait(self, pipe: Connection, seconds: float) -> None:
        """Wait for the answer; end the process where it is too late, or the site is to end."""
        deadline = time.monotonic() + seconds
        while not pipe.poll(min(STEP, max(deadline - time.monotonic(), 0.0))):
            if self.stopping.is_set():
                self.stop()
                raise AppFailed("the site's process was told to end")
            if time.monotonic() >= deadline:
                self.stop()
                raise AppFailed(f"the app did not answer within {seconds:.0f} s and was ended")

    def warm_up(self) -> None:
        """Start the process before there is work, so that the first message finds it ready."""
        self._start()
        self._used = time.monotonic()

    def rest(self) -> None:
        """End the process where it had no work for ``keep_warm`` seconds."""
        idle = time.monotonic() - self._used
        if self._process is not None and idle >= self.keep_warm:
            logger.info(
                "no work for %.0f s: the app's process ends and gives its memory back", idle
            )
            self.stop()

    def stop(self) -> None:
        """End the process, at once where it is in the middle of something."""
        process, pipe = self._process, self._pipe
        self._process, self._pipe, self._digest = None, None, ""
        if pipe is not None:
            pipe.close()
        if process is None:
            return
        process.terminate()
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _start(self) -> None:
        if self.process_id is not None:
            return
        if self._process is not None:
            logger.error("the app's process had ended by itself: it is started again")
            self.stop()
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", "site_guard.app_process", str(theirs.fileno())]
            self._process = subprocess.Popen(
                command,
                env=self._environment(),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )
        self._pipe = Connection(ours.detach())
        self.started += 1
        logger.info("the app's process %d is started", self._process.pid)

    def _environment(self) -> dict[str, str]:
        environment = {
            k: v for k, v in os.environ.items() if "SECRET" not in k and "TOKEN" not in k
        }
        environment["FEDSTRATA_GPU_MEMORY"] = str(self.gpu_memory)
        environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        if self.threads is not None:
            environment["OMP_NUM_THREADS"] = str(self.threads)
        return environment

    def _died(self, error: BaseException) -> str:
        process = self._process
        code = None
        if process is not None:
            try:
                code = process.wait(GRACE)
            except subprocess.TimeoutExpired:
                code = None
        self.stop()
        if code is None:
            return f"the pipe to the app's process broke ({type(error).__name__})"
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        return f"the app's process died ({how}); it is started again for the next message"


def bundle_folder(cache: Path, digest: str) -> Path:
    """Return where the bundle with this SHA-256 is unpacked, under the site's cache."""
    return cache / "bundles" / digest
