"""Many simulated sites on one machine: `python -m benchmarks.simulate`.

`flwr run` with 10, 100 and 500 sites: stock Flower FedAvg as its quickstart writes it, ours with a
node for each site, and ours in cohorts (two nodes with half of the sites each). All three train one
perceptron (561 features, 82,470 parameters) on the same seeded measurements. They begin from the same
weights and take each site's examples as one batch, so they must end at the same average.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks.flower.process_tree import descendants, memory_of
from benchmarks.flower.round_ends import RoundEnds, note_round_ends, our_rounds
from benchmarks.flower.simulator import RunConfig, Simulator
from benchmarks.flower.site_data import (
    CLASSES,
    FEATURES,
    sites_data,
    write_measurements,
    write_site_data,
)
from benchmarks.flower.stock import copy_app, stock_summary
from benchmarks.measure.limits import Limits, limits, operations
from benchmarks.measure.turns import in_turn, median_of, medians
from benchmarks.report.command_line import add_repeat, at_least, make_parser
from benchmarks.report.tables import Table, times, write
from models import weights
from server_app.compose import compose
from strategies.config import plan_for
from strategies.methods import make_method
from strategies.partitioned_model import build_partitioned

STOCK, SINGLE, COHORT = "stock Flower FedAvg", "ours, a node for each site", "ours, in cohorts"
CASES = (COHORT, SINGLE, STOCK)
SIZES = (10, 100, 500)
NODES = 2
RATE, BATCH, EPOCHS = 0.02, 32, 3
OURS = (
    "method=fedavg",
    f"train.epochs={EPOCHS}",
    f"train.batch_size={BATCH}",
    f"train.optimizer.lr={RATE}",
    # As the quickstart trains.
    "train.optimizer.weight_decay=0",
    "train.clip=null",
    "train.schedule=constant",
    "baselines.alone=false",
)
MEGABYTE = 1e6
TOLERANCE = 1e-5  # what a parameter of two averages may differ by
Result = tuple[list[float], tuple[NDArray[np.float32], ...]]
"""When each round ended, seconds of the clock, and the parameters at the end."""


@dataclass(frozen=True)
class Run:
    """What a run cost, and the model that it ended with.

    Parameters
    ----------
    rate : float
        Rounds times sites per second, without the first round.
    memory : float
        Most bytes of all processes together; what they share is counted once.
    average : tuple of NDArray
        The parameters at the end, in the network's order.
    """

    rate: float
    memory: float
    average: tuple[NDArray[np.float32], ...]


@dataclass
class Watch:
    """Looks at a run's processes and checkpoints twice a second, in a thread of its own.

    Parameters
    ----------
    leader : int
        The process that all others descend from.
    output : Path
        Folder of our runs.
    """

    leader: int
    output: Path
    most: float = 0.0
    ends: RoundEnds = field(default_factory=dict)

    def __enter__(self) -> Watch:
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.5):
            self.look()

    def look(self) -> None:
        """Note the memory and the checkpoints as they are now."""
        note_round_ends(self.output, self.ends)
        processes = [self.leader, *descendants(self.leader)]
        self.most = max(self.most, sum(map(memory_of, processes)))


def write_data(folder: Path, sites: int) -> None:
    """Write the sites' measurements for ours and for stock Flower, and the start of both."""
    folder.mkdir(parents=True, exist_ok=True)
    write_measurements(folder / "har.npz", sites)
    write_site_data(compose("har", OURS), sites, folder / "har.npz", folder / "sites")
    parameters = enumerate(perceptron().parameters())
    start: dict[str, Any] = {f"{number:02d}": each.detach().numpy() for number, each in parameters}
    np.savez(folder / "start.npz", **start)


def perceptron() -> nn.Module:
    """Return the network as every run of ours begins with it."""
    plan = plan_for(compose("har", OURS), federation="start", weights="")
    method = make_method(plan.method)
    return build_partitioned(plan, method, input_shape=(FEATURES,), classes=CLASSES).network


def least_operations(folder: Path, sites: int) -> float:
    """Return the floating point operations of a round of all sites that are in ``folder``.

    Forward and backward over each training example, as often as there are epochs, and forward over
    each test example.
    """
    network = perceptron()
    one = torch.zeros(1, FEATURES)
    forward = operations(lambda: network(one))
    both = operations(lambda: network(one).sum().backward())
    data = sites_data(compose("har", OURS), sites, folder / "har.npz")
    trained, tested = (sum(len(getattr(each, of)) for each in data) for of in ("train", "test"))
    return EPOCHS * trained * both + tested * forward


def run_case(simulator: Simulator, case: str, sites: int, rounds: int, folder: Path) -> Run:
    """Run ``rounds`` rounds of one case over ``sites`` sites, whose data are in ``folder``."""
    output = folder / f"output-{CASES.index(case)}"
    output.mkdir(parents=True)
    simulator.start()
    superlink = simulator.superlink.process
    assert superlink is not None
    name = f"{sites}-{CASES.index(case)}"
    with Watch(superlink.popen.pid, output) as watch:
        if case == STOCK:
            config = _stock_config(sites, rounds, folder, output)
            simulator.run(name, sites, config, app=str(copy_app(folder)))
        else:
            nodes = NODES if case == COHORT else sites
            simulator.run(name, nodes, _our_config(sites // nodes, rounds, folder, output))
        watch.look()
    simulator.stop()
    if case == STOCK:
        ended, average = _stock_result(output, sites)
    else:
        ended, average = _our_result(output, watch.ends, case, sites)
    seconds = ended[-1] - ended[0]
    return Run((len(ended) - 1) * sites / seconds, watch.most, average)


def _stock_config(sites: int, rounds: int, folder: Path, output: Path) -> RunConfig:
    return {
        "num-server-rounds": rounds,
        "local-epochs": EPOCHS,
        "lr": RATE,
        "batch-size": BATCH,
        "sites": sites,
        "model": "mlp",
        "data": str(folder / "sites"),
        "start": str(folder / "start.npz"),
        "output": str(output),
    }


def _our_config(cohort: int, rounds: int, folder: Path, output: Path) -> RunConfig:
    overrides = [*OURS, f"strategy.rounds={rounds}", f"cohort.sites={cohort}"]
    return {
        "experiment": "har",
        "data-root": str(folder / "har.npz"),
        "output-dir": str(output),
        "overrides": " ".join(overrides),
    }


def _stock_result(output: Path, sites: int) -> Result:
    rounds, _ = stock_summary(output, sites)
    with np.load(output / "average.npz", allow_pickle=False) as arrays:
        return [each["ended"] for each in rounds], tuple(arrays[name] for name in sorted(arrays))


def _our_result(output: Path, ends: RoundEnds, case: str, sites: int) -> Result:
    _, moments = our_rounds(ends, case, sites)
    last = max(output.glob("*/checkpoints/round-*"))
    state, _ = weights.load(last / "state.safetensors")
    names = [name for name, _ in perceptron().named_parameters()]
    average = tuple(state[f"state/common//{name}"].numpy() for name in names)
    return moments, average


def compare(
    cases: Sequence[str], sites: int, rounds: int, folder: Path, *, side_by_side: bool
) -> dict[str, Run]:
    """Run the cases in turn, or side by side with a core each: quicker, and no figures to keep."""
    write_data(folder, sites)

    def once(case: str, _: int) -> Run:
        started = time.monotonic()
        run = run_case(simulators[case], case, sites, rounds, folder)
        print(
            f"{sites} sites, {case}: {run.rate:.1f} sites x rounds / s, "
            f"{run.memory / MEGABYTE:.0f} MB, {time.monotonic() - started:.0f} s in all",
            flush=True,
        )
        return run

    actors = 1 if side_by_side else os.cpu_count() or 1
    with ExitStack() as stack:
        homes = {case: folder / f"flower-{CASES.index(case)}" for case in cases}
        simulators = {
            case: stack.enter_context(Simulator(home, actors)) for case, home in homes.items()
        }
        found = in_turn(cases, 1, once, side_by_side=side_by_side)
    runs = {case: run for case, (run,) in found.items()}
    for case, run in runs.items():
        if not (far := largest_difference(run, runs[STOCK])) <= TOLERANCE:
            raise SystemExit(f"{sites} sites: {case} and {STOCK} differ by {far:g}")
    return runs


def largest_difference(one: Run, other: Run) -> float:
    """Return the largest difference of a parameter between two averages."""
    pairs = zip(one.average, other.average, strict=True)
    return max(float(np.abs(a - b).max()) for a, b in pairs)


def table(found: Mapping[int, Mapping[str, Sequence[Run]]], at_best: float) -> Table:
    """Return median rates and memory, and the largest difference from stock Flower's average.

    ``at_best`` is the sites x rounds per second that the arithmetic alone allows.
    """
    made = Table(
        f"{' and '.join(map(str, found))} simulated sites, a perceptron",
        (
            "sites, case",
            "sites x rounds / s",
            "against stock",
            "at best",
            "at best / this",
            "memory, MB",
            "average apart",
        ),
    )
    for sites, cases in found.items():
        rates = medians(cases, lambda run: run.rate)
        for case, runs in cases.items():
            pairs = zip(runs, cases[STOCK], strict=True)
            made.rows[f"{sites}, {case}"] = (
                f"{rates[case]:.1f}",
                "-" if case == STOCK else f"{rates[case] / rates[STOCK]:.1f} times",
                f"{at_best:.0f}",
                f"{at_best / rates[case]:.0f}",
                f"{median_of(runs, lambda run: run.memory) / MEGABYTE:.0f}",
                "-" if case == STOCK else f"{max(largest_difference(*p) for p in pairs):.1e}",
            )
    return made


def notes(machine: Limits, least: float, rounds: int, repeat: int, *, quick: bool) -> list[str]:
    """Return what the reader must know; ``least`` are the operations of a site and round."""
    return [
        machine.describe(),
        ("Side by side: no figures to keep. " if quick else "")
        + f"Medians of {times(repeat, 'run')} of {rounds} rounds each. The rate is of the rounds after "
        "the first, from the end of one to the end of the next. Ours ends with a checkpoint on the "
        "disk, and measures each site's validation data besides its test data, which stock Flower has "
        f"not. At best: the {least / 1e6:.0f} MFLOP of a site and round (training and test data), at "
        "the rate of a large matrix product. Memory is the most, at looks half a second apart, of the "
        "SuperLink and all processes that it started, shared pages counted once. The averages are those "
        "after the last round, and the largest difference of a parameter from stock Flower's.",
    ]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    quick_help = "two rounds of ten sites, two cases side by side, once"
    parser = make_parser("simulate", __doc__, quick=quick_help)
    parser.add_argument("--sites", type=int, nargs="+", default=list(SIZES), help="even numbers")
    rounds_help = "of each run; the first is not timed"
    parser.add_argument("--rounds", type=at_least(2), default=4, help=rounds_help)
    add_repeat(parser, 3, "runs of each case, in turn")
    options = parser.parse(arguments)
    if options.quick:
        options.sites, options.rounds, options.repeat = [10], 2, 1
    if any(size < NODES or size % NODES for size in options.sites):
        parser.error(f"--sites that {NODES} nodes can share evenly")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the three cases at each number of sites in turn, and write the table."""
    options = parse(arguments)
    cases = (COHORT, STOCK) if options.quick else CASES
    found: dict[int, dict[str, list[Run]]] = {
        sites: {case: [] for case in cases} for sites in options.sites
    }
    with tempfile.TemporaryDirectory() as name:
        for number in range(options.repeat):
            for sites in options.sites:
                folder = Path(name) / f"{sites}-{number}"
                runs = compare(cases, sites, options.rounds, folder, side_by_side=options.quick)
                for case, run in runs.items():
                    found[sites][case].append(run)
        least = least_operations(folder, sites) / sites
    machine = limits("cpu", torch.float32)
    write(
        options.output,
        "simulate",
        [table(found, machine.product / least)],
        command=options.command,
        notes=notes(machine, least, options.rounds, options.repeat, quick=options.quick),
        more={
            "played": {
                str(sites): {
                    c: [[run.rate, run.memory] for run in runs] for c, runs in each.items()
                }
                for sites, each in found.items()
            },
            "operations": least,
            "limits": asdict(machine),
        },
    )


if __name__ == "__main__":
    main()
