"""How long a round of deployed sites takes: `python -m benchmarks.rounds`.

Stock Flower (FedAvg as its PyTorch quickstart writes it), ours with a process per message, and ours with
the site's warm process. The last also with layers that travel in 8 bits a value, and with training in
bfloat16 besides. The cases run one after the other, several times, on one machine over real sockets.

Three sites, ResNet-18 at 64x64, 256 training pictures a site, training and evaluation. A round lasts
from the end of the round before to its own end; ours ends with its checkpoint on the disk.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from benchmarks.flower.deployment import ANY_PLAN, SuperLink, start_supernode, start_warm_site
from benchmarks.flower.processes import Process, Processes
from benchmarks.flower.round_ends import our_rounds, watch_run
from benchmarks.flower.site_data import write_site_data
from benchmarks.flower.stock import start_stock_run, stock_summary
from benchmarks.measure.limits import Limits, limits, operations
from benchmarks.measure.turns import in_turn, median_of
from benchmarks.report.command_line import add_repeat, at_least, check_compiled, make_parser
from benchmarks.report.tables import Table, times, write
from models.networks import build
from server_app.compose import compose

SITES = 3
STOCK, COLD, WARM = "stock Flower FedAvg", "ours, a process per message", "ours, warm process"
CODED = "ours, warm process, layers in 8 bits"
BRIEF = "the same, trained in bfloat16"
CASES = (STOCK, COLD, WARM, CODED, BRIEF)
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
NOTE = (
    "What the server writes is in it: a checkpoint and results.json for ours, nothing for stock. "
    "Working is the slowest site's time, as it reports it, from loading the received layers to the "
    "end of training and evaluation, with the data read and the network built before; for ours with "
    "a check for values that are not finite. Waiting is the rest: polling, starting processes, "
    "importing, reading data, building the network, coding and moving layers, for ours also saving "
    "what stays at the site. Both train and evaluate alike, but ours sends a site one message a round "
    "(it evaluates the received model, then trains it) and stock Flower two (it trains, then evaluates "
    "the average). Ours sends each site one more message after the last round, to measure the final "
    "model, which is in no round here. Every process has one thread of its own."
)
MORE = {CODED: IN_BYTES, BRIEF: (*IN_BYTES, "train.precision=bfloat16")}


@dataclass(frozen=True)
class Timing:
    """Seconds of one round since the end of the one before, and those of the slowest site's work."""

    seconds: float
    worked: float

    @property
    def waited(self) -> float:
        """Seconds in which nobody trained or evaluated."""
        return self.seconds - self.worked


@dataclass
class Deployment:
    """A SuperLink and sites over real sockets, started for one case and ended after it."""

    case: str
    folder: Path
    rounds: int
    data: Path
    sites: int = SITES
    train: int = TRAIN

    def run(self) -> list[Timing]:
        """Run ``rounds`` rounds; return what each but the first took.

        Where there is only one, it is what that took from the command on.
        """
        with Processes(self.folder) as processes:
            superlink = self.start(processes)
            begun = time.time()
            run = self.submit(processes, superlink)
            wait = self._stock if self.case == STOCK else self._ours
            ended, worked = wait(processes, run)
        if self.rounds == 1:
            ended, worked = [begun, *ended], [0.0, *worked]
        return timings(ended, worked)

    def start(self, processes: Processes) -> SuperLink:
        """Start the SuperLink and the sites; return the SuperLink."""
        superlink = SuperLink(processes, stock=self.case == STOCK)
        superlink.start()
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

    def _start_site(self, processes: Processes, superlink: SuperLink, index: int) -> None:
        name = f"site-{index}"
        place = {"partition-id": index, "num-partitions": self.sites}
        if self.case in (WARM, *MORE):
            start_warm_site(processes, name, superlink.fleet, task="gender", plan=ANY_PLAN, **place)
            return
        config: dict[str, Any] = {"data": self.data / f"{index}.npz"}
        if self.case == COLD:
            folder = self.folder / name
            config = {"site": name, **place, "threads": 1}
            config |= {"state-dir": folder / "state", "cache-dir": folder / "cache"}
        start_supernode(processes, name, superlink.fleet, node_config=config)

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


def timings(ended: Sequence[float], worked: Sequence[float]) -> list[Timing]:
    """Return what each round but the first took, of when each ended and the work in each."""
    lasted = (after - before for before, after in pairwise(ended))
    return [Timing(seconds, work) for seconds, work in zip(lasted, worked[1:], strict=True)]


def least_operations(sites: int, train: int = TRAIN) -> float:
    """Return the floating point operations of a round: of training and of the test data."""
    network = build("resnet18", input_shape=(3, SIZE, SIZE), classes=2, head=())
    pictures = torch.zeros(2, 3, SIZE, SIZE)
    with torch.no_grad():
        forward = operations(lambda: network(pictures))
    both = operations(lambda: network(pictures).sum().backward())
    return sites * (train * both + TEST * forward) / 2


def table(
    found: Mapping[str, Sequence[Timing]],
    at_best: Mapping[str, float],
    sites: int = SITES,
    train: int = TRAIN,
) -> Table:
    """Return the medians, and how many times less each case waits than stock Flower.

    ``at_best`` has the seconds that the arithmetic alone takes, by the dtype that a case trains in.
    """
    made = Table(
        f"A round of {times(sites, 'deployed site')}, ResNet-18 at {SIZE}x{SIZE}, {train} pictures each",
        (
            "case",
            "seconds a round",
            "at best",
            "this / at best",
            "working",
            "waiting",
            "less waiting than stock",
        ),
    )
    stock = median_of(found[STOCK], lambda timing: timing.waited)
    for case, timings in found.items():
        seconds = median_of(timings, lambda timing: timing.seconds)
        worked = median_of(timings, lambda timing: timing.worked)
        waited = median_of(timings, lambda timing: timing.waited)
        least = at_best["bfloat16" if case == BRIEF else "float32"]
        made.rows[case] = (
            f"{seconds:.1f}",
            f"{least:.1f}",
            f"{seconds / least:.1f}",
            f"{worked:.1f}",
            f"{waited:.1f}",
            "-" if case == STOCK else f"{stock / waited:.1f} times",
        )
    return made


@dataclass(frozen=True)
class Extent:
    """How much is measured: cases, sites, rounds of a run, runs of a case, pictures of a site."""

    cases: tuple[str, ...] = CASES
    sites: int = SITES
    rounds: int = 4
    repeat: int = 2
    train: int = TRAIN
    quick: bool = False

    @classmethod
    def of(cls, options: argparse.Namespace) -> Extent:
        """Return what the command line asks for."""
        if options.quick:
            return cls((STOCK, WARM), 1, 1, 1, TRAIN_QUICK, True)
        return cls(rounds=options.rounds, repeat=options.repeat)


def measure(extent: Extent, folder: Path) -> dict[str, list[Timing]]:
    """Run the cases in turn, or side by side for a quick look; return the timings of each."""
    config = compose("faces_paper", (*DATA, f"data.train={extent.train}"))
    write_site_data(config, extent.sites, None, folder / "data")

    def once(case: str, number: int) -> list[Timing]:
        place, data = folder / f"{number}-{CASES.index(case)}", folder / "data"
        found = Deployment(case, place, extent.rounds, data, extent.sites, extent.train).run()
        shown = [f"{t.seconds:.1f} s ({t.waited:.1f} waiting)" for t in found]
        print(case, shown, flush=True)
        return found

    runs = in_turn(extent.cases, extent.repeat, once, side_by_side=extent.quick)
    return {case: [timing for run in each for timing in run] for case, each in runs.items()}


def notes(extent: Extent, least: float, machine: Sequence[Limits]) -> list[str]:
    """Return what the reader of the table must know; ``least`` are the operations of a round."""
    counted = (
        f"Medians over {times(extent.rounds - 1, 'round')} of {times(extent.repeat, 'run')} a case, "
        "without each run's first round (imports, the first look at the data). A round lasts from the "
        "end of the one before to its own."
    )
    if extent.quick:
        counted = (
            "The only round of each case, from the command on and side by side: no figures to keep."
        )
    return [
        f"{counted} {NOTE} At best: the {least / 1e9:.0f} GFLOP of all sites' training and test "
        "data, with each convolution as it is defined, at the rate of a large matrix product on all "
        "cores; fast convolutions need fewer. " + " ".join(each.describe() for each in machine)
    ]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    quick_help = "one site, one batch, one round, two cases side by side"
    parser = make_parser("rounds", __doc__, quick=quick_help)
    rounds_help = "of each run; the first is not timed"
    parser.add_argument("--rounds", type=at_least(2), default=Extent.rounds, help=rounds_help)
    add_repeat(parser, Extent.repeat, "runs of each case, in turn")
    options = parser.parse(arguments)
    check_compiled(parser, options)
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the cases, and write the table."""
    options = parse(arguments)
    extent = Extent.of(options)
    with tempfile.TemporaryDirectory() as name:
        found = measure(extent, Path(name))
    dtypes = (torch.float32,) if extent.quick else (torch.float32, torch.bfloat16)
    machine = [limits("cpu", dtype) for dtype in dtypes]
    least = least_operations(extent.sites, extent.train)
    at_best = {each.dtype: least / each.product for each in machine}
    write(
        options.output,
        "rounds",
        [table(found, at_best, extent.sites, extent.train)],
        command=options.command,
        notes=notes(extent, least, machine),
        more={
            "timings": {c: [[t.seconds, t.worked] for t in ts] for c, ts in found.items()},
            "operations": least,
            "limits": {each.dtype: asdict(each) for each in machine},
        },
    )


if __name__ == "__main__":
    main()
