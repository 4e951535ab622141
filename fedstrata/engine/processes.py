"""What the processes of a simulation do: one plays the ServerApp, each other one the ClientApp."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection, parent_process
from multiprocessing.connection import Client, Connection
from pathlib import Path
from typing import TYPE_CHECKING

from fedstrata.engine.channel import Channel
from fedstrata.support.said_lines import VARIABLE

if TYPE_CHECKING:
    from flwr.app import Message

SECONDS = 60.0  # for the server to listen
STILL = 0.02  # seconds between two tries


@dataclass(frozen=True)
class Simulation:
    """What every process of a simulation has to know.

    Parameters
    ----------
    folder : Path
        A short path of this user's own: the socket lies there, and what is said to people.
    shared : Path
        A folder in memory, where there is one: large tensors go through it.
    log : Path
        Where everything else is written.
    run_config : mapping of str to str
        The run config, complete.
    nodes : int
        How many nodes are simulated.
    workers : int
        How many processes compute.
    """

    folder: Path
    shared: Path
    log: Path
    run_config: Mapping[str, str]
    nodes: int
    workers: int

    @property
    def address(self) -> Path:
        """Where the server listens for workers."""
        return self.folder / "workers"

    @property
    def said(self) -> Path:
        """What the ServerApp says to people."""
        return self.folder / "said"

    def remove(self) -> None:
        """Remove what is in its folders."""
        for each in (self.folder, self.shared):
            shutil.rmtree(each, ignore_errors=True)


def serve(simulation: Simulation) -> None:
    """Play the ServerApp; the process ends with 0 only if it does."""
    _begin(simulation)
    signal.signal(signal.SIGTERM, _end)  # files and locks are closed on the way
    os.environ[VARIABLE] = str(simulation.said)
    # Imported late: these are forked with the process, once `fedstrata.engine.preloaded` has them.
    import torch
    from flwr.app import Context, RecordDict

    from fedstrata.engine.grid import RUN_ID, LocalGrid
    from fedstrata.engine.workers import Workers
    from server_app.app import app

    torch.set_num_threads(cores())  # the workers have a few each; while they wait, it works
    workers = Workers(simulation.address, simulation.workers, simulation.shared)
    context = Context(RUN_ID, 0, {}, RecordDict(), dict(simulation.run_config))
    try:
        app(LocalGrid(workers, simulation.nodes), context)
    except Exception:
        logging.getLogger("flwr").exception("the ServerApp failed")
        sys.exit(1)
    finally:
        workers.close()


def work(simulation: Simulation, number: int, devices: str) -> None:
    """Play the ClientApp for one order after the other, until the server ends.

    Parameters
    ----------
    simulation : Simulation
        What is played.
    number : int
        Of the worker, from 0.
    devices : str
        The CUDA devices that it may see, as ``CUDA_VISIBLE_DEVICES`` names them.
    """
    _begin(simulation)
    os.environ["CUDA_VISIBLE_DEVICES"] = devices  # before anything asks for a device
    with Channel(_connected(simulation.address), simulation.shared) as server:
        server.send(number)
        from client_app.node_config import enter_simulation

        enter_simulation()
        with suppress(EOFError, OSError):  # the server has ended, or has no more orders
            while True:
                server.send(_answered(server.recv(), simulation))


def cores() -> int:
    """Return how many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _answered(message: Message, simulation: Simulation) -> Message:
    """Return the answer of a node to an order."""
    from flwr.app import Context, Error, Message, RecordDict, UserConfig
    from flwr.common.constant import ErrorCode

    from client_app.app import app

    node = message.metadata.dst_node_id
    place: UserConfig = {"partition-id": node - 1, "num-partitions": simulation.nodes}
    context = Context(
        message.metadata.run_id, node, place, RecordDict(), dict(simulation.run_config)
    )
    try:
        return app(message, context)
    except Exception as error:
        logging.getLogger("flwr").exception("the ClientApp failed")
        reason = f"{type(error).__name__}: {error}"
        return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message)


def _begin(simulation: Simulation) -> None:
    """Write to the log, and end with the command; leave Ctrl-C to it, which ends all in order."""
    threading.Thread(target=_end_with_parent, args=(simulation,), daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with simulation.log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)


def _end(number: int, frame: object) -> None:
    sys.exit(128 + number)


def _end_with_parent(simulation: Simulation) -> None:
    """End this process with the command that began it, however that ended."""
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    simulation.remove()  # the command did not come to it
    os.kill(os.getpid(), signal.SIGTERM)


def _connected(address: Path) -> Connection:
    """Return a connection to the server, which may not be there yet."""
    ends = time.monotonic() + SECONDS
    while True:
        try:
            return Client(str(address), family="AF_UNIX")
        except (FileNotFoundError, ConnectionRefusedError):
            if time.monotonic() > ends:
                raise
            time.sleep(STILL)
