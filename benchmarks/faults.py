"""Faults on purpose: `python -m benchmarks.faults --faults 100 --seed 1`.

A SuperLink, three sites and the driver that keeps a run alive, all real processes over real
sockets. One after the other they are killed, paused and cut off from the network, in every phase of a
round, by a fixed seed; whoever died is started again after a second, as a restart policy does. After
each run: no round that was complete is lost or changed, no site's personal layers of a round are
lost, changed or another site's, and where no contribution was missed, the results are those of an
undisturbed run, bit for bit. Two runs of three wait for every site in every round
(``strategy.minimum.common=3``), so that there none is missed; the third goes on without who is not there.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import re
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.flower.processes import (
    Process,
    Processes,
    SuperLink,
    children,
    free_port,
    listening,
    start_site,
    start_supernode,
)
from benchmarks.flower.proxy import Proxy
from benchmarks.report.command_line import command_of, output_of, with_output
from benchmarks.report.tables import Table, write

SITES = ("site-00", "site-01", "site-02")
ROUNDS = 6
FAULTS_A_RUN = 4
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
COMPONENTS = ("superlink", "serverapp", "supernode", "site", "app")
KINDS = ("kill", "pause", "cut")
PHASES = ("idle", "receiving", "training", "replying", "aggregating", "checkpointing")
PAUSED = 4.0  # seconds


@dataclass(frozen=True)
class Fault:
    """What happens to whom, and when."""

    component: str
    site: str
    kind: str
    phase: str
    after: float  # seconds after the phase began

    def __str__(self) -> str:
        whom = f"{self.component} of {self.site}" if self.site else self.component
        return f"{self.kind} {whom}, {self.phase}, after {self.after:.2f} s"


def plan_faults(seed: int, count: int) -> list[Fault]:
    """Return faults in which every component meets every kind and phase about equally often."""
    generator = np.random.default_rng(seed)
    every = [
        (component, kind, phase)
        for component in COMPONENTS
        for kind in KINDS
        for phase in PHASES
        if not (
            kind == "cut" and component in ("serverapp", "site", "app")
        )  # they have no line out
    ]
    faults: list[Fault] = []
    while len(faults) < count:
        for index in generator.permutation(len(every)):
            component, kind, phase = every[index]
            site = "" if component in ("superlink", "serverapp") else str(generator.choice(SITES))
            faults.append(Fault(component, site, kind, phase, float(generator.uniform(0, 0.3))))
    return faults[:count]


@dataclass
class GroupCheckpoint:
    """A process that is started again a second after it died, until it is to end."""

    start: Callable[[], Process]
    process: Process | None = None
    starts: int = 0
    ended: threading.Event = field(default_factory=threading.Event)

    def begin(self) -> None:
        """Start it, and watch it from now on."""
        self._start()
        threading.Thread(target=self._watch, daemon=True).start()

    def _start(self) -> None:
        self.process = self.start()
        self.starts += 1

    def _watch(self) -> None:
        while not self.ended.wait(1.0):
            if self.process is not None and self.process.ended:
                self._start()


@dataclass
class Testbed:
    """The processes, each under a restart policy, and lines that can be cut."""

    __test__ = False
    processes: Processes
    superlink: SuperLink
    lines: dict[str, Proxy]
    nodes: dict[str, GroupCheckpoint] = field(default_factory=dict)
    sites: dict[str, GroupCheckpoint] = field(default_factory=dict)
    kept_superlink: GroupCheckpoint | None = None

    @property
    def output(self) -> Path:
        """Where runs are kept."""
        return self.processes.folder / "output"

    def begin(self) -> None:
        """Start everything."""
        self.kept_superlink = GroupCheckpoint(self._superlink)
        self.kept_superlink.begin()
        for index, site in enumerate(SITES):
            port = free_port()
            self.nodes[site] = GroupCheckpoint(lambda site=site, port=port: self._node(site, port))  # type: ignore[misc]
            self.nodes[site].begin()
            self.processes.wait_for(f"{site}", lambda port=port: listening(port), seconds=90)  # type: ignore[misc]
            self.sites[site] = GroupCheckpoint(
                lambda site=site, port=port, index=index: self._site(site, port, index)  # type: ignore[misc]
            )
            self.sites[site].begin()

    def end(self) -> None:
        """Start nothing again."""
        for kept in (*self.nodes.values(), *self.sites.values(), self.kept_superlink):
            if kept is not None:
                kept.ended.set()

    def _superlink(self) -> Process:
        self.superlink.start()
        assert self.superlink.process is not None
        return self.superlink.process

    def _node(self, site: str, port: int) -> Process:
        line = self.lines[site].port
        return start_supernode(
            self.processes, f"{site}-node", line, "--isolation", "process", port=port
        )

    def _site(self, site: str, port: int, index: int) -> Process:
        told = {"task": ("gender", "pose")[index % 2], "partition-id": index}
        return start_site(self.processes, site, port, **told, **{"num-partitions": len(SITES)})

    def pids(self, fault: Fault) -> list[int]:
        """Return the processes that a fault means, those that run now: none while it is down."""
        if fault.component == "superlink":
            kept = self.kept_superlink
        elif fault.component == "supernode":
            kept = self.nodes[fault.site]
        elif fault.component in ("site", "app"):
            kept = self.sites[fault.site]
        else:
            kept = self.kept_superlink
        assert kept is not None
        assert kept.process is not None
        if kept.process.ended:
            return []
        leader = kept.process.popen.pid
        if fault.component == "serverapp":
            return children(leader, "flwr-serverapp")
        if fault.component == "app":
            return children(leader, "site_guard.app_process")
        return [leader]

    def log_of(self, component: str, site: str) -> str:
        """Return what a process of a site has written since it was started last."""
        kept = self.nodes[site] if component == "supernode" else self.sites[site]
        return kept.process.text if kept.process is not None else ""


@dataclass
class Injector:
    """Waits for the phase of each fault, and lets it happen."""

    testbed: Testbed
    run: Process
    name: str
    done: list[str] = field(default_factory=list)

    def inject(self, fault: Fault) -> bool:
        """Let a fault happen in its phase; return whether it found what it was meant for."""
        if not self._await(fault):
            return False
        time.sleep(fault.after)
        if fault.kind == "cut":
            lines = self.testbed.lines
            cut = [lines[fault.site]] if fault.site else list(lines.values())
            for line in cut:
                line.cut()
            time.sleep(PAUSED)
            for line in cut:
                line.mend()
            return True
        pids = self.testbed.pids(fault)
        for pid in pids:
            _signal(pid, signal.SIGKILL if fault.kind == "kill" else signal.SIGSTOP)
        if fault.kind == "pause":
            time.sleep(PAUSED)
            for pid in pids:
                _signal(pid, signal.SIGCONT)
        return bool(pids)

    def _await(self, fault: Fault) -> bool:
        """Wait for the next begin of a phase; return False where the run ended before."""
        site = fault.site or SITES[0]
        seen = self._count(fault.phase, site)
        deadline = time.monotonic() + 120
        while not self.run.ended and time.monotonic() < deadline:
            now = self._count(fault.phase, site)
            if now > seen:
                return True
            seen = min(seen, now)  # what was started again writes a log of its own
            time.sleep(0.01)
        return False

    def _count(self, phase: str, site: str) -> int:
        """Return how often a phase began so far, as the logs and the files tell."""
        if phase in ("idle", "checkpointing"):
            checkpoints = self.testbed.output / self.name / "checkpoints"
            # What is being written has another name, with a dot, until it is whole.
            pattern = "round-*" if phase == "idle" else "*round-*"
            return max((_number(path.name) for path in checkpoints.glob(pattern)), default=0)
        if phase == "aggregating":
            return self.testbed.log_of("supernode", site).count("Sent successfully")
        if phase == "training":
            return self.testbed.log_of("site", site).count(": train, round")
        word = "Receiving:" if phase == "receiving" else "Sending:"
        return self.testbed.log_of("supernode", site).count(word)


def _number(name: str) -> int:
    """Return the number of ``round-000007``, wherever it stands in a name."""
    found = re.search(r"round-(\d+)", name)
    return int(found[1]) if found else 0


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


@dataclass
class Outcome:
    """What a run came to, and what its faults broke."""

    results: dict[str, Any]
    state: dict[str, bytes]
    personal: dict[str, dict[str, bytes]]
    broken: list[str]
    happened: list[Fault]

    @property
    def complete(self) -> bool:
        """Whether every site took part in every round."""
        rounds = self.results["rounds"]
        return all(sorted(record["sites"]) == list(SITES) for record in rounds)


@dataclass
class Watcher:
    """Looks at a run's complete rounds and at the sites' personal layers all the time.

    Whatever is complete once may be deleted when it is old, but never change: a round that is played
    again because it was not complete gives the same bits.
    """

    run: Path
    states: Path
    ended: threading.Event = field(default_factory=threading.Event)
    newest: int = 0
    rounds: dict[int, Any] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)

    def watch(self) -> None:
        """Look until told to end, and once more then."""
        while not self.ended.wait(0.05):
            self._look()
        self._look()

    def _look(self) -> None:
        rounds = sorted((self.run / "checkpoints").glob("round-*"))
        newest = max((_number(path.name) for path in rounds), default=0)
        if newest < self.newest:
            self.broken.append(f"round {self.newest} was complete, and now it is {newest}")
        self.newest = max(self.newest, newest)
        for folder in rounds:
            with contextlib.suppress(FileNotFoundError):  # it became old just now
                record = json.loads((folder / "history.json").read_text())["history"][-1]
                if self.rounds.setdefault(_number(folder.name), record) != record:
                    self.broken.append(f"what happened in {folder.name} has changed")
                self._same(folder / "state.safetensors", folder.name)
        for path in self.states.glob(f"*/state/{self.run.name}-*/sites/*/round-*.safetensors"):
            with contextlib.suppress(FileNotFoundError):
                self._same(path, f"{path.parent.name}'s personal layers of {path.stem}")

    def _same(self, path: Path, what: str) -> None:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if self.files.setdefault(what, digest) != digest:
            self.broken.append(f"{what} have changed")

    def judge(self, results: dict[str, Any]) -> None:
        """Compare the results with what was seen on the way."""
        for record in results["rounds"]:
            if self.rounds.get(record["round"], record) != record:
                self.broken.append(f"results.json tells round {record['round']} in another way")
        if missed := set(range(1, ROUNDS + 1)) - self.rounds.keys():
            self.broken.append(f"nobody saw the checkpoints of rounds {sorted(missed)}")
        for site in SITES:
            mine = [_number(what) for what in self.files if what.startswith(f"{site}'s")]
            took_part = [r["round"] for r in results["rounds"] if site in r["sites"]]
            if max(mine, default=0) < max(took_part, default=0):
                self.broken.append(
                    f"{site} has no personal layers of the round it took part in last"
                )


def play(testbed: Testbed, faults: Sequence[Fault], least: int = len(SITES)) -> Outcome:
    """Play a run to its end with faults on the way; ``least`` sites must answer in each round."""
    old = {path.name for path in testbed.output.glob("*")}
    overrides = " ".join([*RUN, f"strategy.minimum.common={least}"])
    pairs = ["-c", f"output-dir={testbed.output}", "-c", f"overrides={overrides}"]
    command = ["fedstrata", "consortium", "run", testbed.superlink.name, *pairs]
    run = testbed.processes.start("driver", command)
    testbed.processes.wait_for(
        "the run begins",
        lambda: {path.name for path in testbed.output.glob("*")} != old,
        seconds=180,
        watch=[run],
    )
    (name,) = {path.name for path in testbed.output.glob("*")} - old
    watcher = Watcher(testbed.output / name, testbed.processes.folder)
    thread = threading.Thread(target=watcher.watch, daemon=True)
    thread.start()
    injector = Injector(testbed, run, name)
    happened = []
    for fault in faults:
        if injector.inject(fault):
            print(f"  {fault}", flush=True)
            happened.append(fault)
    testbed.processes.finish(run, seconds=600)
    watcher.ended.set()
    thread.join()
    results = json.loads((testbed.output / name / "results.json").read_text())
    watcher.judge(results)
    broken = watcher.broken
    if run.popen.returncode != 0 or not results["final"]:
        broken.append(f"the run did not come to its end: {run.text[-500:]}")
    if [record["round"] for record in results["rounds"]] != list(range(1, ROUNDS + 1)):
        broken.append("rounds are missing or doubled in results.json")
    last = sorted((testbed.output / name / "checkpoints").glob("round-*"))[-1]
    personal = {}
    for site in SITES:
        folder = testbed.processes.folder / site / "state" / results["federation"] / "sites" / site
        personal[site] = _tensors(sorted(folder.glob("round-*"))[-1])
    state = _tensors(last / "state.safetensors")
    return Outcome(results, state, personal, broken, happened)


def _tensors(path: Path) -> dict[str, bytes]:
    from models import weights

    return {name: t.numpy().tobytes() for name, t in weights.load(path)[0].items()}


def compare(quiet: Outcome, disturbed: Outcome) -> list[str]:
    """Return what is wrong with a disturbed run."""
    broken = list(disturbed.broken)
    for site in SITES:
        others = [disturbed.personal[other] for other in SITES if other != site]
        if disturbed.personal[site] in others:
            broken.append(f"{site} has another site's personal layers")
    if disturbed.complete and disturbed.results["final"]:
        if disturbed.state != quiet.state:
            broken.append("no contribution was missed, and the final layers differ")
        if disturbed.personal != quiet.personal:
            broken.append("no contribution was missed, and personal layers differ")
        if _measured(disturbed.results) != _measured(quiet.results):
            broken.append("no contribution was missed, and the metrics differ")
    return broken


def _measured(results: dict[str, Any]) -> Any:
    return {
        site: {name: told[name] for name in ("accuracy", "loss") if name in told}
        for site, told in results["final"]["sites"].items()
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Play the runs, and write what happened."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=__doc__)
    parser.add_argument("--faults", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="a dozen")
    told = with_output(parser).parse_args(given)
    count = 12 if told.quick else told.faults
    with tempfile.TemporaryDirectory() as name:
        outcomes, broken = disturb(Path(name), told.seed, count)
    table = tally(outcomes)
    command = command_of("benchmarks.faults", given)
    write(output_of(told), "faults", [table], command=command, notes=_notes(outcomes, broken))
    if broken:
        sys.exit("\n".join(broken))


def _notes(outcomes: Sequence[Outcome], broken: Sequence[str]) -> list[str]:
    happened = sum(len(outcome.happened) for outcome in outcomes)
    whole = sum(outcome.complete for outcome in outcomes)
    text = (
        f"{happened} faults in {len(outcomes)} runs of {ROUNDS} rounds; "
        f"in {whole} runs no contribution was missed"
    )
    if not broken:
        text += (
            ", and those ended with the layers, personal layers and metrics of the undisturbed run, "
            "bit for bit"
        )
    return [f"{text}.", *[f"BROKEN: {each}" for each in broken]]


def disturb(folder: Path, seed: int, count: int) -> tuple[list[Outcome], list[str]]:
    """Play an undisturbed run and as many others as the faults need; return them and what broke."""
    from contextlib import ExitStack

    outcomes, broken = [], []
    with ExitStack() as stack:
        processes = stack.enter_context(Processes(folder))
        superlink = SuperLink(processes)
        lines = {site: stack.enter_context(Proxy(superlink.fleet)) for site in SITES}
        testbed = Testbed(processes, superlink, lines)
        stack.callback(testbed.end)
        testbed.begin()
        quiet = play(testbed, [])
        if not quiet.complete or quiet.broken:
            return [quiet], ["the undisturbed run was not complete", *quiet.broken]
        faults = plan_faults(seed, count)
        for start in range(0, count, FAULTS_A_RUN):
            print(f"run {start // FAULTS_A_RUN + 1}", flush=True)
            # Every third run goes on without who is missing; in the others each round waits for all.
            least = 1 if start // FAULTS_A_RUN % 3 == 2 else len(SITES)
            outcome = play(testbed, faults[start : start + FAULTS_A_RUN], least)
            outcomes.append(outcome)
            wrong = compare(quiet, outcome)
            broken += [f"run {start // FAULTS_A_RUN + 1}: {each}" for each in wrong]
            for each in wrong:
                print(f"  BROKEN: {each}", flush=True)
    return outcomes, broken


def tally(outcomes: Sequence[Outcome]) -> Table:
    """Return how many faults of each kind each component met."""
    table = Table("Faults on purpose", ("component", *KINDS))
    for component in COMPONENTS:
        met = [f for outcome in outcomes for f in outcome.happened if f.component == component]
        table.rows[component] = tuple(str(sum(f.kind == kind for f in met)) for kind in KINDS)
    return table


if __name__ == "__main__":
    main()
