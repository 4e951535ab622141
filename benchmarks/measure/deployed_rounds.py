"""Rounds of deployed sites over real sockets: stock Flower's, ours and NVFlare's, timed from outside."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.flower.consortia import new_consortium, security_of
from benchmarks.flower.deployment import (
    ANY_PLAN,
    PLAINTEXT,
    SuperLink,
    start_supernode,
    start_warm_site,
)
from benchmarks.flower.processes import Process, Processes
from benchmarks.flower.round_ends import our_rounds, watch_run
from benchmarks.flower.stock import start_stock_run, stock_summary
from benchmarks.measure.server_memory import ServerMemory
from benchmarks.peers.nvflare_deployment import NVFlare
from consortium.members import Hospital

SITES = 3
STOCK, COLD, WARM = "stock Flower FedAvg", "ours, a process per message", "ours, warm process"
CODED = "ours, warm process, layers in 8 bits"
BRIEF = "the same, trained in bfloat16"
NVFLARE = "NVFlare FedAvg"
BY_NAME = {"stock": STOCK, "cold": COLD, "warm": WARM, "8-bits": CODED, "bfloat16": BRIEF}
CASES = tuple(BY_NAME.values())
PEERS = {"nvflare": NVFLARE}
SIZE, TRAIN, TEST, BATCH, RATE = 64, 256, 64, 32, 0.01
TRAIN_QUICK = BATCH
DATA = (
    f"data.size={SIZE}",
    f"data.train={TRAIN}",
    "data.validation=1",
    f"data.test={TEST}",
    "data.tasks=[gender]",
)
OURS = (
    *DATA,
    "model=resnet18",
    "model.head=[]",
    "weights=none",
    "method=fedavg",
    "groups=all_common",
    "train.epochs=1",
    f"train.batch_size={BATCH}",
    f"train.optimizer.lr={RATE}",
    # As the quickstart trains.
    "train.optimizer.weight_decay=0",
    "train.clip=null",
    "train.schedule=constant",
    f"train.evaluation_batch_size={BATCH}",
    "baselines.alone=false",
)
IN_BYTES = ("strategy.coding.common=int8", "strategy.coding_down.common=int8")
MORE = {CODED: IN_BYTES, BRIEF: (*IN_BYTES, "train.precision=bfloat16")}


@dataclass(frozen=True)
class Timing:
    """Seconds of one round since the end of the one before, and those of the slowest site's work.

    ``memory`` are the most bytes of the server's processes, in the whole run.
    """

    seconds: float
    worked: float
    memory: float = float("nan")

    @property
    def waited(self) -> float:
        """Seconds in which nobody trained or evaluated."""
        return self.seconds - self.worked


# When the command was given, when each round ended, the work in each, the most bytes of the server.
_Played = tuple[float, list[float], list[float], float]


@dataclass
class Deployment:
    """A server and sites over real sockets, started for one case and ended after it.

    Parameters
    ----------
    case : str
        One of `CASES` or of `PEERS`.
    folder : Path
        Of all that it writes.
    rounds, sites, train : int
        Rounds of the run, sites, and training pictures of a site.
    data : Path
        Folder of the files of `write_site_data`.
    tls : bool
        Flower's processes have TLS and registered keys; NVFlare's have them in any case.
    python : Path or None
        Of NVFlare's environment.
    """

    case: str
    folder: Path
    rounds: int
    data: Path
    sites: int = SITES
    train: int = TRAIN
    tls: bool = False
    python: Path | None = None

    def run(self) -> list[Timing]:
        """Run ``rounds`` rounds; return what each but the first took.

        Where there is only one, it is what that took from the command on.
        """
        play = self._nvflare if self.case == NVFLARE else self._flower
        with Processes(self.folder) as processes:
            begun, ended, worked, memory = play(processes)
        if self.rounds == 1:
            ended, worked = [begun, *ended], [0.0, *worked]
        return timings(ended, worked, memory)

    def _flower(self, processes: Processes) -> _Played:
        superlink = self.start(processes)
        wait = self._stock if self.case == STOCK else self._ours
        begun = time.time()
        with ServerMemory(superlink.leaders) as memory:
            ended, worked = wait(processes, self.submit(processes, superlink))
        return begun, ended, worked, memory.most

    def _nvflare(self, processes: Processes) -> _Played:
        assert self.python is not None
        peer = NVFlare(processes, self.python, self.sites, self.data)
        server = peer.start()
        begun = time.time()
        with ServerMemory([server.popen.pid]) as memory:
            run = peer.submit(self.rounds, batch=BATCH, rate=RATE)
            ended, worked = peer.rounds(server, run, self.rounds, patience=self._patience)
        return begun, ended, worked, memory.most

    def start(self, processes: Processes) -> SuperLink:
        """Start the SuperLink and the sites; return the SuperLink."""
        superlink = SuperLink(processes, stock=self.case == STOCK)
        if self.tls:
            superlink.consortium = self._found()
        superlink.start()
        if self.tls:
            command = ["fedstrata", "consortium", "register", str(self._keys), superlink.name]
            registered = processes.start("register", command)
            processes.finish(registered, seconds=120)
            if registered.popen.returncode:
                raise SystemExit(f"the sites' keys were not registered:\n{processes.logs()}")
        for index in range(self.sites):
            self._start_site(processes, superlink, index)
        return superlink

    def submit(self, processes: Processes, superlink: SuperLink) -> Process:
        """Start the `flwr run` of the case."""
        if self.case == STOCK:
            stock = {"num_server_rounds": self.rounds, "sites": self.sites}
            return start_stock_run(processes, superlink, self._output, **stock)
        counts = (
            f"strategy.rounds={self.rounds}",
            f"strategy.min_sites={self.sites}",
            f"data.train={self.train}",
        )
        overrides = " ".join([*OURS, *MORE.get(self.case, ()), *counts])
        config = {"output-dir": str(self._output), "overrides": overrides}
        return processes.flwr_run("run", superlink.name, config)

    @property
    def _output(self) -> Path:
        return self.folder / "output"

    @property
    def _keys(self) -> Path:
        return self.folder / "keys"

    def _found(self) -> Path:
        hospitals = [Hospital(f"site-{index}", "gender") for index in range(self.sites)]
        return new_consortium(self._keys, ["127.0.0.1"], hospitals)

    def _start_site(self, processes: Processes, superlink: SuperLink, index: int) -> None:
        name = f"site-{index}"
        security = security_of(self._keys, name) if self.tls else PLAINTEXT
        place = {"partition-id": index, "num-partitions": self.sites}
        if self.case in (WARM, *MORE):
            more: dict[str, Any] = {"plan": ANY_PLAN, "security": security, **place}
            start_warm_site(processes, name, superlink.fleet, task="gender", **more)
            return
        config: dict[str, Any] = {"data": self.data / f"{index}.npz"}
        if self.case == COLD:
            folder = self.folder / name
            config = {"site": name, **place, "threads": 1}
            config |= {"state-dir": folder / "state", "cache-dir": folder / "cache"}
        start_supernode(processes, name, superlink.fleet, node_config=config, security=security)

    def _stock(self, processes: Processes, run: Process) -> tuple[list[float], list[float]]:
        """Return when each round of stock Flower ended, and the work in it."""
        processes.finish(run, seconds=self._patience)
        rounds, _ = stock_summary(self._output, self.sites, processes.logs)
        return [each["ended"] for each in rounds], [each["worked"] for each in rounds]

    def _ours(self, processes: Processes, run: Process) -> tuple[list[float], list[float]]:
        """Return when each round of ours ended, and the work in it."""
        ends = watch_run(processes, run, self._output, self._patience)
        results, moments = our_rounds(ends, self.case, self.sites, processes.logs)
        worked = [
            max(site["seconds"] for site in each["sites"].values()) for each in results["rounds"]
        ]
        return moments, worked

    @property
    def _patience(self) -> float:
        return 300.0 + 200.0 * self.rounds


def timings(
    ended: Sequence[float], worked: Sequence[float], memory: float = float("nan")
) -> list[Timing]:
    """Return what each round but the first took, of when each ended and the work in each."""
    lasted = (after - before for before, after in pairwise(ended))
    return [Timing(seconds, work, memory) for seconds, work in zip(lasted, worked[1:], strict=True)]
