"""How long a round takes where sites are real: `python -m benchmarks.rounds`.

Stock Flower (FedAvg as its PyTorch quickstart writes it), ours with a process per message, ours with
the site's warm process; that with layers that travel in 8 bits a value, and with training in bfloat16
besides: one after the other, several times, on one machine over real sockets.
Three sites, ResNet-18 at 64x64, 256 training pictures a site, training and evaluation. A round lasts
from the end of the round before to its own end; ours ends with its checkpoint on the disk.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from benchmarks.flower.deployment import (
    draw,
    our_rounds,
    start_warm_site,
    stock_rounds,
    submit_stock,
    watch,
)
from benchmarks.flower.processes import Process, Processes, SuperLink, start_supernode
from benchmarks.measure.limits import Limits, limits, operations
from benchmarks.report.command_line import (
    at_least,
    check_compiled,
    command_of,
    output_of,
    with_output,
)
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
MORE = {CODED: IN_BYTES, BRIEF: (*IN_BYTES, "train.precision=bfloat16")}


@dataclass(frozen=True)
class Timing:
    """What one round took: seconds since the end of the last, and those of the slowest site's work."""

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

    def play(self) -> list[Timing]:
        """Run ``rounds`` rounds; return what each but the first took.

        Where there is only one, it is what that took from the command on.
        """
        with Processes(self.folder) as processes:
            superlink = self.start(processes)
            begun = time.monotonic() if self.case == STOCK else time.time()
            run = self.submit(processes, superlink)
            play = self._stock if self.case == STOCK else self._ours
            ended, worked = play(processes, run)
        if self.rounds == 1:
            ended, worked = [begun, *ended], [0.0, *worked]
        return timings(ended, worked)

    def start(self, processes: Processes) -> SuperLink:
        """Start the SuperLink and the sites; return the SuperLink."""
        superlink = SuperLink(processes)
        superlink.start()
        for index in range(self.sites):
            self._start_site(processes, superlink, index)
        return superlink

    def submit(self, processes: Processes, superlink: SuperLink) -> Process:
        """Give the `flwr run` command of the case."""
        if self.case == STOCK:
            output, rounds = self._stock_output, self.rounds
            return submit_stock(
                processes, superlink, output, num_server_rounds=rounds, sites=self.sites
            )
        counts = (
            f"strategy.rounds={self.rounds}",
            f"strategy.min_sites={self.sites}",
            f"data.train={self.train}",
        )
        overrides = " ".join([*OURS, *MORE.get(self.case, ()), *counts])
        told = {"output-dir": str(self._output), "overrides": overrides}
        return processes.flwr_run("run", superlink.name, told)

    @property
    def _stock_output(self) -> Path:
        return self.folder / "rounds.json"

    @property
    def _output(self) -> Path:
        return self.folder / "output"

    def _start_site(self, processes: Processes, superlink: SuperLink, index: int) -> None:
        name = f"site-{index}"
        place = {"partition-id": index, "num-partitions": self.sites}
        if self.case in (WARM, *MORE):
            start_warm_site(processes, name, superlink.fleet, task="gender", **place)
            return
        told: dict[str, Any] = {"data": self.data / f"{index}.npz"}
        if self.case == COLD:
            folder = self.folder / name
            told = {"site": name, **place, "threads": 1}
            told |= {"state-dir": folder / "state", "cache-dir": folder / "cache"}
        start_supernode(processes, name, superlink.fleet, node_config=told)

    def _stock(self, processes: Processes, run: Process) -> tuple[list[float], list[float]]:
        """Return when each round ended, on the clock of `time.monotonic`, and the work in it."""
        processes.finish(run, seconds=self._patience)
        told = stock_rounds(self._stock_output, self.sites, processes.logs)
        return [each["ended"] for each in told], [each["worked"] for each in told]

    def _ours(self, processes: Processes, run: Process) -> tuple[list[float], list[float]]:
        """Return when each round ended, on the clock of `time.time`, and the work in it."""
        ended = watch(processes, run, self._output, self._patience)
        results, moments = our_rounds(ended, self.case, self.sites, processes.logs)
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
    """Return the medians, and how many times less each waits than stock Flower.

    ``at_best`` are the seconds that the arithmetic alone takes, by the type that a case trains in.
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
    stock = statistics.median(timing.waited for timing in found[STOCK])
    for case, timings in found.items():
        seconds = statistics.median(timing.seconds for timing in timings)
        waited = statistics.median(timing.waited for timing in timings)
        least = at_best["bfloat16" if case == BRIEF else "float32"]
        made.rows[case] = (
            f"{seconds:.1f}",
            f"{least:.1f}",
            f"{seconds / least:.1f}",
            f"{statistics.median(timing.worked for timing in timings):.1f}",
            f"{waited:.1f}",
            "-" if case == STOCK else f"{stock / waited:.1f} times",
        )
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    """Play the cases in turn, and write the table."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rounds", description=__doc__)
    rounds_told = "of each run; the first is not timed"
    parser.add_argument("--rounds", type=at_least(2), default=4, help=rounds_told)
    parser.add_argument("--repeat", type=at_least(1), default=2, help="runs of each case, in turn")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="one site, one batch, one round, two cases side by side",
    )
    told = with_output(parser).parse_args(given)
    check_compiled(parser, told)
    rounds, repeat = (1, 1) if told.quick else (told.rounds, told.repeat)
    sites, cases = (1, (STOCK, WARM)) if told.quick else (SITES, CASES)
    train = TRAIN_QUICK if told.quick else TRAIN
    found: dict[str, list[Timing]] = {case: [] for case in cases}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw(compose("faces", (*DATA, f"data.train={train}")), sites, None, folder / "data")

        def play(case: str, number: int) -> None:
            place = folder / f"{number}-{CASES.index(case)}"
            played = Deployment(case, place, rounds, folder / "data", sites, train).play()
            found[case] += played
            shown = [f"{t.seconds:.1f} s ({t.waited:.1f} waiting)" for t in played]
            print(case, shown, flush=True)

        with ThreadPoolExecutor(len(cases) if told.quick else 1) as pool:
            for number in range(repeat):
                list(pool.map(play, cases, [number] * len(cases)))
    kinds = (torch.float32,) if told.quick else (torch.float32, torch.bfloat16)
    machine: dict[str, Limits] = {each.dtype: each for each in (limits("cpu", t) for t in kinds)}
    least = least_operations(sites, train)
    counted = (
        "The only round of each case, from the command on and side by side: no figures to keep. "
        if told.quick
        else f"Medians over {times(rounds - 1, 'round')} of {times(repeat, 'run')} a case, without "
        "each run's first round (imports, the first look at the data). A round lasts from the end of "
        "the one before to its own. "
    )
    notes = [
        counted + "What the server writes is in it, which is a checkpoint and "
        "results.json for ours and nothing for stock. Working is the slowest site's time, as it says "
        "itself, from loading the received layers into a network that is built, with its data read, "
        "to the end of training and evaluation, for ours with a look for what is not finite; waiting is "
        "the rest: polling, starting processes, importing, reading data, building the network, coding "
        "and moving layers, for ours also keeping what stays at the site. Both train and evaluate "
        "alike, but ours sends a site one message a round (it evaluates the model as received, then "
        "trains it) and stock Flower two (it trains, then evaluates the average). Every process has "
        f"one thread of its own. At best: the {least / 1e9:.0f} GFLOP of all sites' training and test "
        "data, with each convolution as it is defined, at the rate of a large matrix product on all "
        "cores; fast convolutions need fewer. Ours sends each site one more message after the last "
        "round, to measure the final model, which is in no round here. "
        + " ".join(each.told() for each in machine.values())
    ]
    more = {
        "timings": {c: [[t.seconds, t.worked] for t in ts] for c, ts in found.items()},
        "operations": least,
        "limits": {dtype: asdict(each) for dtype, each in machine.items()},
    }
    at_best = {dtype: least / each.product for dtype, each in machine.items()}
    command = command_of("benchmarks.rounds", given)
    write(
        output_of(told),
        "rounds",
        [table(found, at_best, sites, train)],
        command=command,
        notes=notes,
        more=more,
    )


if __name__ == "__main__":
    main()
