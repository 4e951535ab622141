"""The processes that faults hit, each under a restart policy, and lines that can be cut."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.fault_injection.plan import SITES, Fault
from benchmarks.flower.deployment import SuperLink, start_site, start_supernode
from benchmarks.flower.process_tree import descendants
from benchmarks.flower.processes import Process, Processes, free_port, listening
from benchmarks.flower.proxy import Proxy

ROUNDS = 6
SMALL = (  # a network and pictures so small that a round is over at once
    "model=small_cnn",
    "model.head=[8]",
    "data.size=28",
    "data.train=24",
    "data.validation=8",
    "data.test=24",
    "data.identities=12",
    "data.tasks=[gender,pose]",
    "train.batch_size=8",
    "strategy.min_sites=3",
    "baselines.alone=false",
    "baselines.pooled=false",
)
RUN = (
    *SMALL,
    "weights=none",
    "groups.pretrained=[]",
    "groups.common=[conv1,bn1,conv2,conv3]",
    "groups.task=[head.0]",
    "groups.personal=[bn2,bn3,head.out]",
    f"strategy.rounds={ROUNDS}",
    "strategy.deadline=25",
)


@dataclass
class RestartedProcess:
    """A process that is started again a second after it died, until `ended` is set."""

    start: Callable[[], Process]
    process: Process | None = None
    starts: int = 0
    ended: threading.Event = field(default_factory=threading.Event)

    def begin(self) -> None:
        """Start it, and watch it from now on."""
        self._start()
        threading.Thread(target=self._watch, daemon=True).start()

    @property
    def text(self) -> str:
        """What it has written since it was started last."""
        return self.process.text if self.process is not None else ""

    def _start(self) -> None:
        self.process = self.start()
        self.starts += 1

    def _watch(self) -> None:
        while not self.ended.wait(1.0):
            if self.process is not None and self.process.ended:
                self._start()


@dataclass
class Testbed:
    """A SuperLink, and for each site a SuperNode behind a line of its own and the site's process."""

    __test__ = False
    processes: Processes
    superlink: SuperLink
    lines: dict[str, Proxy]
    nodes: dict[str, RestartedProcess] = field(default_factory=dict)
    sites: dict[str, RestartedProcess] = field(default_factory=dict)
    restarted_superlink: RestartedProcess | None = None

    @property
    def output(self) -> Path:
        """The folder of the runs."""
        return self.processes.folder / "output"

    def begin(self) -> None:
        """Start everything."""
        self.restarted_superlink = RestartedProcess(self._start_superlink)
        self.restarted_superlink.begin()
        for index, site in enumerate(SITES):
            self._begin_site(index, site)

    def _begin_site(self, index: int, site: str) -> None:
        port = free_port()
        self.nodes[site] = RestartedProcess(lambda: self._start_node(site, port))
        self.nodes[site].begin()
        self.processes.wait_for(site, lambda: listening(port), seconds=90)
        self.sites[site] = RestartedProcess(lambda: self._start_site(site, port, index))
        self.sites[site].begin()

    def end(self) -> None:
        """Let every process that dies from now on stay dead."""
        for each in (*self.nodes.values(), *self.sites.values(), self.restarted_superlink):
            if each is not None:
                each.ended.set()

    def _start_superlink(self) -> Process:
        self.superlink.start()
        assert self.superlink.process is not None
        return self.superlink.process

    def _start_node(self, site: str, port: int) -> Process:
        line = self.lines[site].port
        options = ("--isolation", "process")
        return start_supernode(self.processes, f"{site}-node", line, *options, port=port)

    def _start_site(self, site: str, port: int, index: int) -> Process:
        settings = {"task": ("gender", "pose")[index % 2], "partition-id": index}
        settings["num-partitions"] = len(SITES)
        return start_site(self.processes, site, port, **settings)

    def pids(self, fault: Fault) -> list[int]:
        """Return the processes that a fault hits, if they run now: none while they are down."""
        if fault.component == "supernode":
            restarted = self.nodes.get(fault.site)
        elif fault.component in ("site", "app"):
            restarted = self.sites.get(fault.site)
        else:
            restarted = self.restarted_superlink
        assert restarted is not None
        assert restarted.process is not None
        if restarted.process.ended:
            return []
        leader = restarted.process.popen.pid
        if fault.component == "serverapp":
            return descendants(leader, "flwr-serverapp")
        if fault.component == "app":
            return descendants(leader, "site_guard.app_process")
        return [leader]
