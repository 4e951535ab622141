"""The app's process as the guard sees it: started once, kept warm, given orders over a pipe."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from flwr.app import Context, Message, RecordDict

from fedstrata.support import freed_memory
from fedstrata.support.errors import UserError
from site_guard.app_log import Allowance, AppLog
from site_guard.app_start import start_app
from site_guard.bundles import Bundle
from site_guard.confinement import Confinement
from site_guard.framing import pack_order, unpack_context, unpack_records
from site_guard.own_process import kill_descendants
from site_guard.pipe import Pipe, TooLong

logger = logging.getLogger("flwr")
# Bytes that the app's process may answer with: how it went, its context, and the answer itself
# beyond its layers.
MOST_OUTCOME, MOST_CONTEXT, MOST_MORE = 10_000, 16_000_000, 1_000_000
GRACE = 5.0  # seconds to end by itself
LAST_WORDS = 1.0  # seconds in which bytes that a dead process left in the pipe are still read


class AppFailed(RuntimeError):
    """The app's process has no answer; the text says why and has nothing of the site's data."""


class AppRaised(AppFailed):
    """The app raised; the text is its process's own."""


class Task(msgspec.Struct, frozen=True):
    """Which app the process is to run: where its bundle is unpacked, and what it is called."""

    app: str
    app_id: str
    version: str
    digest: str


class Outcome(msgspec.Struct, frozen=True):
    """What the app's process did: it answered, or ``error`` says what failed."""

    error: str


@dataclass
class WarmProcess:
    """One process that runs one app bundle, and stays for the next message.

    Parameters
    ----------
    confinement : Confinement
        What the process may do, and where its bundle is unpacked.
    keep_warm : float
        Seconds without work after which the process ends and gives its memory back.
    gpu_memory : float
        The largest share of the GPU's memory.
    threads : int or None
        CPU threads.
    started : int
        How often a process was started.
    stopping : Event
        Set when the site's process is to end: work in progress is given up.
    alive : callable
        Called at least every second while the process is waited for.
    adopts : bool
        Whether this whole process has no children but the app's, and adopts what those leave: then
        all of them end with the app's process.
    """

    confinement: Confinement
    keep_warm: float
    gpu_memory: float = 1.0
    threads: int | None = None
    started: int = 0
    stopping: threading.Event = field(default_factory=threading.Event)
    alive: Callable[[], None] = lambda: None
    adopts: bool = False
    allowance: Allowance = field(default_factory=Allowance)
    _process: subprocess.Popen[bytes] | None = None
    _pipe: Pipe | None = None
    _log: AppLog | None = None
    _task: Task | None = None
    _folder: Path | None = None
    _used: float = field(default_factory=time.monotonic)

    @property
    def process_id(self) -> int | None:
        """The process's id while it runs."""
        alive = self._process is not None and self._process.poll() is None
        return self._process.pid if alive and self._process else None

    def run(
        self,
        bundle: Bundle,
        message: Message,
        context: Context,
        seconds: float,
        lost: threading.Event | None = None,
        *,
        layers: int = 0,
    ) -> Message:
        """Let the app answer ``message``; return its answer, which nobody has checked yet.

        ``context`` is changed as the app changed it. Another bundle gets a process of its own.

        Parameters
        ----------
        bundle : Bundle
            The app.
        message : Message
            The order.
        context : Context
            What Flower keeps for the app.
        seconds : float
            How long the answer is of use.
        lost : Event or None
            Set by another thread once nobody wants the answer any more.
        layers : int
            The most bytes that the layers of the answer may have.

        Raises
        ------
        Refused
            The bundle cannot be read.
        AppFailed
            The app raised, its process died, it took longer than ``seconds``, or it sent no
            valid answer. In all cases but the first the process is ended.
        """
        task = self._loaded(bundle)
        check = self._check_of(seconds, lost or threading.Event())
        try:
            content, state = self._exchange(task, message, context, check, layers)
            answer = Message(content, reply_to=message)
        except AppRaised:
            raise
        except AppFailed:
            self.stop()
            raise
        except (OSError, EOFError) as error:
            raise AppFailed(self._died(error)) from None
        except Exception as error:  # the app made the bytes: anything in them may be wrong
            self.stop()
            how = str(error) if isinstance(error, TooLong) else type(error).__name__
            raise AppFailed(
                f"the app's process sent something that is no answer ({how}) and was ended"
            ) from None
        except BaseException:
            self.stop()
            raise
        finally:
            self._used = time.monotonic()
        context.state = state
        return answer

    def _exchange(
        self,
        task: Task,
        message: Message,
        context: Context,
        check: Callable[[], None],
        layers: int,
    ) -> tuple[RecordDict, RecordDict]:
        """Send an order; return the answer's records, and those that Flower keeps for the app."""
        assert self._pipe is not None
        for data in (msgspec.json.encode(task), *pack_order(message, context)):
            self._pipe.send(data, check)
        outcome = msgspec.json.decode(self._pipe.receive(MOST_OUTCOME, check), type=Outcome)
        if outcome.error:
            raise AppRaised(outcome.error)
        changed = self._pipe.receive(MOST_CONTEXT, check)
        # All byte strings of the answer together: many small ones could fill the memory as well.
        left = layers + MOST_MORE

        def receive() -> bytes:
            nonlocal left
            assert self._pipe is not None
            data = self._pipe.receive(left, check)
            left -= len(data)
            return data

        return unpack_records(receive), unpack_context(changed).state

    def _check_of(self, seconds: float, lost: threading.Event) -> Callable[[], None]:
        """Return a function that raises once it is no use to wait for the process any longer."""
        deadline, dead_since, process = time.monotonic() + seconds, 0.0, self._process
        assert process is not None

        def check() -> None:
            nonlocal dead_since
            now = time.monotonic()
            self.alive()
            if self.stopping.is_set():
                raise AppFailed("the site's process is ending")
            if lost.is_set():
                raise AppFailed("the SuperNode has given the task up")
            if now >= deadline:
                raise AppFailed(f"the app did not answer within {seconds:.0f} s and was ended")
            # What the process started may hold the pipe open, which then never says that it is gone.
            if process.poll() is not None:
                dead_since = dead_since or now
                if now - dead_since > LAST_WORDS:
                    raise EOFError("something that the process started has its pipe open")

        return check

    def _loaded(self, bundle: Bundle) -> Task:
        """Have a process that runs ``bundle``; return the task that goes with every message."""
        if self._task is not None and self._task.digest == bundle.digest and self.process_id:
            return self._task
        try:
            folder, app = bundle.unpack(
                self.confinement.bundles, shared=self.confinement.user is not None
            )
        except OSError as error:
            raise AppFailed(f"the app bundle cannot be unpacked: {error.strerror}") from None
        if self._task is not None and self._task.digest != bundle.digest:
            logger.info("another app bundle: its process starts afresh")
            self.stop()
        try:
            self._start()
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise AppFailed(f"the app's process cannot be started: {error.strerror}") from None
        except UserError as error:
            shutil.rmtree(folder, ignore_errors=True)
            logger.error("%s", error)  # it names folders, which stay here
            raise AppFailed("the app's process cannot be started: see the site's log") from None
        self._folder = folder
        self._task = Task(str(app), bundle.app_id, bundle.version, bundle.digest)
        return self._task

    def warm_up(self) -> None:
        """Start the process before there is work, so that the first message finds it ready."""
        self._start()
        self._used = time.monotonic()

    def stop_if_idle(self) -> None:
        """End the process if it had no work for ``keep_warm`` seconds."""
        idle = time.monotonic() - self._used
        if self._process is not None and idle >= self.keep_warm:
            logger.info(
                "no work for %.0f s: the app's process ends and gives its memory back", idle
            )
            self.stop()

    def stop(self) -> None:
        """End the process and all that it started, and remove its bundle's files."""
        process, pipe, folder, log = self._process, self._pipe, self._folder, self._log
        self._process, self._pipe, self._task, self._folder = None, None, None, None
        self._log = None
        if pipe is not None:
            pipe.close()
        if process is not None:
            _signal_all(process, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE)
            _signal_all(process, signal.SIGKILL)
            process.wait()
            if self.adopts and (left := kill_descendants()):
                logger.error("the app left processes that cannot be ended: %s", sorted(left))
        if log is not None:
            log.finish(GRACE)
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)

    def _start(self) -> None:
        if self.process_id is not None:
            return
        if self._process is not None:
            logger.error("the app's process had ended by itself: it is started again")
            self.stop()
        started = start_app(self.confinement, self._environment(), self.allowance)
        self._process, self._pipe, self._log = started.process, started.pipe, started.log
        self.started += 1
        logger.info("the app's process %d is started", self._process.pid)

    def _environment(self) -> dict[str, str]:
        environment = self.confinement.environment(os.environ)
        environment["FEDSTRATA_GPU_MEMORY"] = str(self.gpu_memory)
        # Waiting threads of OpenMP would otherwise spin, on cores that other processes need.
        environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        for name, value in freed_memory.VARIABLES.items():
            environment.setdefault(name, value)
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
        names = {number.value: number.name for number in signal.Signals}
        how = f"signal {names.get(-code, -code)}" if code < 0 else f"exit status {code}"
        return f"the app's process died ({how}); it is started again for the next message"


def _signal_all(process: subprocess.Popen[bytes], number: int) -> None:
    """Signal the process and what it started, which is its session."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
