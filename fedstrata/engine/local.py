"""The processes of a simulation, as the command that starts and ends them sees them."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from fedstrata.engine.processes import Simulation, cores, serve, work
from fedstrata.support.errors import UserError

PATIENCE = 8.0  # seconds for a process to end before it is killed
AT_ONCE = 10.0  # a worker that ends within so many seconds of its start has not really begun
TRIES = 3  # of such starts in a row
COMPLETED, FAILED, RUNNING = "finished:completed", "finished:failed", "running"
MEMORY = Path("/dev/shm")
PRELOADED = "fedstrata.engine.preloaded"


class LocalEngine:
    """Worker processes and a server process, as a context: all of them end with the block.

    They are forked from a process that has imported torch and the apps, and computed nothing. It
    begins to import with the block, beside whatever the command does meanwhile.

    Parameters
    ----------
    cpus : int
        CPU threads of each worker.
    gpus : float
        The share of a GPU that each worker has; 0 hides them.
    """

    def __init__(self, cpus: int = 1, gpus: float = 0.0) -> None:
        self.cpus, self.gpus = cpus, gpus
        self._devices = _devices(gpus)
        self._context = multiprocessing.get_context("forkserver")
        self._server: ForkServerProcess | None = None
        self._workers: list[_Worker] = []
        self._simulation: Simulation | None = None

    def __enter__(self) -> LocalEngine:
        self._context.set_forkserver_preload([PRELOADED])
        try:
            # Read when torch is imported, in the process from which all others are forked.
            with _defaults(OMP_NUM_THREADS=str(self.cpus), OMP_WAIT_POLICY="PASSIVE"):
                forkserver.ensure_running()
            self.folder = Path(tempfile.mkdtemp(prefix="fedstrata-"))
            self._shared = _in_memory(self.folder)
        except OSError as error:  # a socket's path has some 100 characters at most
            raise UserError(
                f"the processes of a simulation cannot have sockets in {tempfile.gettempdir()} "
                f"({error}): set TMPDIR to another folder, with a short path, as in TMPDIR=/tmp"
            ) from None
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self, run_config: Mapping[str, str], nodes: int, log: Path) -> None:
        """Start a run.

        Parameters
        ----------
        run_config : mapping of str to str
            The run config, complete.
        nodes : int
            How many nodes are simulated.
        log : Path
            A file to which all processes append.
        """
        count = worker_count(nodes, self.cpus, self.gpus, len(self._devices))
        self._simulation = Simulation(
            self.folder, self._shared, log, dict(run_config), nodes, count
        )
        self._server = self._context.Process(target=serve, args=(self._simulation,))
        self._server.start()
        self._workers = [_Worker(number, self._devices_of(number)) for number in range(count)]
        for worker in self._workers:
            worker.start(self._context, self._simulation)

    @property
    def said(self) -> Path:
        """What the ServerApp of the run says to people."""
        assert self._simulation is not None
        return self._simulation.said

    def write_to(self, log: Path) -> None:
        """Say where the log was moved: processes that start later open it there."""
        assert self._simulation is not None
        self._simulation = replace(self._simulation, log=log)

    def status(self) -> str:
        """Return how the run is; a worker that has ended meanwhile is replaced."""
        assert self._server is not None
        assert self._simulation is not None
        code = self._server.exitcode
        if code is not None:
            return COMPLETED if code == 0 else FAILED
        for worker in self._workers:
            ended = worker.exitcode
            if ended is None:
                continue
            if ended:  # perhaps killed, and then it could not say so itself
                with self._simulation.log.open("a") as log:
                    log.write(f"a worker process ended with exit code {ended}\n")
            if not worker.start(self._context, self._simulation):
                return FAILED
        return RUNNING

    def close(self) -> None:
        """End all processes, and remove what they said."""
        processes = [each for each in (self._server, *(w.process for w in self._workers)) if each]
        for each in processes:
            each.terminate()
        ends = time.monotonic() + PATIENCE
        for each in processes:
            each.join(max(ends - time.monotonic(), 0.0))
            if each.exitcode is None:
                each.kill()
                each.join()
        for folder in (self.folder, self._shared):
            shutil.rmtree(folder, ignore_errors=True)

    def _devices_of(self, worker: int) -> str:
        if not self.gpus:
            return ""
        return self._devices[worker // _sharing(self.gpus)]


class _Worker:
    """One place of a worker, and the process that is in it now."""

    def __init__(self, number: int, devices: str) -> None:
        self._number, self._devices = number, devices
        self._begun, self._tries = 0.0, 0
        self.process: ForkServerProcess | None = None

    @property
    def exitcode(self) -> int | None:
        return None if self.process is None else self.process.exitcode

    def start(self, context: multiprocessing.context.ForkServerContext, of: Simulation) -> bool:
        """Start a process; return False where several in a row have ended at once."""
        now = time.monotonic()
        self._tries = self._tries + 1 if now - self._begun < AT_ONCE else 0
        if self._tries >= TRIES:
            return False
        self._begun = now
        self.process = context.Process(target=work, args=(of, self._number, self._devices))
        self.process.start()
        return True


def worker_count(nodes: int, cpus: int, gpus: float, devices: int) -> int:
    """Return how many workers this machine has room for; no more than there are nodes.

    Parameters
    ----------
    nodes, cpus : int
        Nodes of the simulation; CPU threads of a worker.
    gpus : float
        Share of a GPU that a worker has.
    devices : int
        GPUs of this machine.
    """
    room = max(cores() // cpus, 1)
    if gpus:
        room = min(room, devices * _sharing(gpus))
    return min(room, nodes)


def _sharing(gpus: float) -> int:
    """Return how many workers with such a share fit on one GPU."""
    return int(1 / gpus)


@contextmanager
def _defaults(**variables: str) -> Iterator[None]:
    """Set variables of the environment that have no value, within the block."""
    new = {name: value for name, value in variables.items() if name not in os.environ}
    os.environ.update(new)
    try:
        yield
    finally:
        for name in new:
            del os.environ[name]


def _in_memory(otherwise: Path) -> Path:
    """Return a new folder of this user alone in memory; ``otherwise`` where there is no memory."""
    try:
        return Path(tempfile.mkdtemp(prefix="fedstrata-", dir=MEMORY))
    except OSError:  # not Linux
        return otherwise


def _devices(gpus: float) -> list[str]:
    """Return this machine's CUDA devices where some are wanted; raise UserError if there are too few."""
    if not gpus:
        return []
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        found = [each for each in named.split(",") if each]
    else:
        found = [str(n) for n, _ in enumerate(Path("/dev").glob("nvidia[0-9]*"))]
    if not 0 < gpus <= 1:
        raise UserError(f"--node-gpus {gpus:g}: a share of one GPU, above 0 and at most 1")
    if not found:
        raise UserError(f"--node-gpus {gpus:g}: this machine has no CUDA device; leave it out")
    return found
