"""Many simulated sites on one machine: `python -m benchmarks.simulate`.

`flwr run` with 10, 100 and 500 sites: stock Flower FedAvg as its quickstart writes it, ours with a
node for each site, and ours in cohorts (two nodes that hold all sites). One perceptron (561 features,
82,470 parameters) on seeded measurements, the same at all three, who begin from the same weights and
take each site's examples as one batch, so that they must end at the same average.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks.accuracy.central import sites_data
from benchmarks.flower.deployment import Ended, app_copy, note_rounds, our_rounds, stock_rounds
from benchmarks.flower.processes import children
from benchmarks.flower.simulator import Simulator
from benchmarks.measure.limits import limits, operations
from benchmarks.report.command_line import at_least, command_of, output_of, with_output
from benchmarks.report.tables import Table, times, write
from models import weights
from server_app.compose import compose
from strategies.config import plan_for
from strategies.methods import make_method
from strategies.partitioned_model import build_partitioned

STOCK, APART, COHORT = "stock Flower FedAvg", "ours, a node for each site", "ours, in cohorts"
CASES = (COHORT, APART, STOCK)
SIZES = (10, 100, 500)
NODES, WINDOWS, FEATURES, CLASSES = 2, 36, 561, 6
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
class Played:
    """What a run cost and gave.

    Parameters
    ----------
    rate : float
        Rounds times sites per second, without the first round.
    memory : float
        Most bytes of all processes together, memory that they share counted once.
    average : tuple of NDArray
        The parameters at the end, in the network's order.
    """

    rate: float
    memory: float
    average: tuple[NDArray[np.float32], ...]


@dataclass
class Watch:
    """Looks at a run's processes and checkpoints, twice a second, in a thread of its own.

    Parameters
    ----------
    leader : int
        The process that all others descend from.
    output : Path
        Where our runs are.
    """

    leader: int
    output: Path
    most: float = 0.0
    ended: Ended = field(default_factory=dict)

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
        """Note what there is now."""
        note_rounds(self.output, self.ended)
        self.most = max(self.most, sum(map(memory_of, [self.leader, *children(self.leader, "")])))


def memory_of(pid: int) -> float:
    """Return the bytes of a process, of what it shares its part (PSS); 0 where it has ended."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return 1024.0 * int(line.split()[1])
    return 0.0


def draw_measurements(path: Path, sites: int) -> None:
    """Write seeded measurements of ``sites`` subjects to the npz file ``path``, as UCI HAR has them."""
    generator = np.random.default_rng(sites)
    subject = np.repeat(np.arange(1, sites + 1), WINDOWS)
    y = np.tile(np.arange(WINDOWS) % CLASSES + 1, sites)
    centres = generator.normal(size=(CLASSES + 1, FEATURES))
    x = 0.3 * centres[y] + generator.normal(size=(len(y), FEATURES))
    np.savez(path, x=x.astype(np.float32), y=y, subject=subject)


def draw(folder: Path, sites: int) -> None:
    """Write the sites' measurements as ours reads them, and the very same splits for stock Flower."""
    folder.mkdir(parents=True, exist_ok=True)
    draw_measurements(folder / "har.npz", sites)
    config = compose("har", OURS)
    kept: dict[str, list[NDArray[Any]]] = {}
    for index, data in enumerate(sites_data(config, sites, folder / "har.npz")):
        for split in ("train", "test"):
            part = getattr(data, split)
            for what, values in (
                ("x", part.inputs.values),
                ("y", part.labels),
                ("site", np.full(len(part), index)),
            ):
                kept.setdefault(f"{split}_{what}", []).append(values)
    pooled: dict[str, Any] = {name: np.concatenate(parts) for name, parts in kept.items()}
    np.savez(folder / "sites.npz", **pooled)
    parameters = enumerate(perceptron().parameters())
    start: dict[str, Any] = {f"{number:02d}": each.detach().numpy() for number, each in parameters}
    np.savez(folder / "start.npz", **start)


def perceptron() -> nn.Module:
    """Return the network as every run of ours begins with it."""
    plan = plan_for(compose("har", OURS), federation="start", weights="")
    method = make_method(plan.method)
    return build_partitioned(plan, method, input_shape=(FEATURES,), classes=CLASSES).network


def least_operations(sites: Path) -> float:
    """Return the floating point operations of a round of all sites that `draw` wrote into ``sites``.

    Forward and backward over each training example, as often as there are epochs, and forward over
    each test example.
    """
    network = perceptron()
    one = torch.zeros(1, FEATURES)
    forward = operations(lambda: network(one))
    both = operations(lambda: network(one).sum().backward())
    with np.load(sites / "sites.npz", allow_pickle=False) as kept:
        return EPOCHS * len(kept["train_y"]) * both + len(kept["test_y"]) * forward


def play(simulator: Simulator, case: str, sites: int, rounds: int, folder: Path) -> Played:
    """Run ``rounds`` rounds of one case over ``sites`` sites, whose data are in ``folder``."""
    output = folder / f"output-{CASES.index(case)}"
    output.mkdir(parents=True)
    simulator.start()
    assert simulator.superlink is not None
    name = f"{sites}-{CASES.index(case)}"
    with Watch(simulator.superlink.pid, output) as watch:
        if case == STOCK:
            stock: dict[str, str | int] = {"num-server-rounds": rounds, "local-epochs": EPOCHS}
            stock |= {"data": str(folder), "output": str(output)}
            simulator.run(name, sites, stock, app=str(app_copy("stock_app_sites", folder)))
        else:
            nodes = NODES if case == COHORT else sites
            overrides = [*OURS, f"strategy.rounds={rounds}", f"cohort.sites={sites // nodes}"]
            told = {"experiment": "har", "data-root": str(folder / "har.npz")}
            told |= {"output-dir": str(output), "overrides": " ".join(overrides)}
            simulator.run(name, nodes, told)
        watch.look()
    simulator.stop()
    if case == STOCK:
        ended, average = _stock_result(output, sites)
    else:
        ended, average = _our_result(output, watch.ended, case, sites)
    seconds = ended[-1] - ended[0]
    return Played((len(ended) - 1) * sites / seconds, watch.most, average)


def _stock_result(output: Path, sites: int) -> Result:
    ended = [each["ended"] for each in stock_rounds(output / "rounds.json", sites)]
    with np.load(output / "average.npz", allow_pickle=False) as held:
        return ended, tuple(held[name] for name in sorted(held))


def _our_result(output: Path, ended: Ended, case: str, sites: int) -> Result:
    _, moments = our_rounds(ended, case, sites)
    last = max(output.glob("*/checkpoints/round-*"))
    state, _ = weights.load(last / "state.safetensors")
    names = [name for name, _ in perceptron().named_parameters()]
    average = tuple(state[f"state/common//{name}"].numpy() for name in names)
    return moments, average


def compare(
    cases: Sequence[str], sites: int, rounds: int, folder: Path, *, side_by_side: bool
) -> dict[str, Played]:
    """Play the cases in turn, or side by side with a core each: quicker, and no figures to keep."""
    draw(folder, sites)

    def measure(case: str, simulator: Simulator) -> Played:
        started = time.monotonic()
        played = play(simulator, case, sites, rounds, folder)
        print(
            f"{sites} sites, {case}: {played.rate:.1f} sites x rounds / s, "
            f"{played.memory / MEGABYTE:.0f} MB, {time.monotonic() - started:.0f} s in all",
            flush=True,
        )
        return played

    actors = 1 if side_by_side else os.cpu_count() or 1
    with ExitStack() as stack, ThreadPoolExecutor(len(cases) if side_by_side else 1) as pool:
        homes = [folder / f"flower-{CASES.index(case)}" for case in cases]
        simulators = [stack.enter_context(Simulator(home, actors)) for home in homes]
        played = dict(zip(cases, pool.map(measure, cases, simulators), strict=True))
    for case, one in played.items():
        if not (far := apart(one, played[STOCK])) <= TOLERANCE:
            raise SystemExit(f"{sites} sites: {case} and {STOCK} differ by {far:g}")
    return played


def apart(one: Played, other: Played) -> float:
    """Return the largest difference between two averages."""
    pairs = zip(one.average, other.average, strict=True)
    return max(float(np.abs(a - b).max()) for a, b in pairs)


def table(found: Mapping[int, Mapping[str, Sequence[Played]]], at_best: float) -> Table:
    """Return median rates and memory, and how far each average is from stock Flower's at the most.

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
        rates = {case: statistics.median(one.rate for one in each) for case, each in cases.items()}
        for case, each in cases.items():
            pairs = zip(each, cases[STOCK], strict=True)
            made.rows[f"{sites}, {case}"] = (
                f"{rates[case]:.1f}",
                "-" if case == STOCK else f"{rates[case] / rates[STOCK]:.1f} times",
                f"{at_best:.0f}",
                f"{at_best / rates[case]:.0f}",
                f"{statistics.median(one.memory for one in each) / MEGABYTE:.0f}",
                "-" if case == STOCK else f"{max(apart(*pair) for pair in pairs):.1e}",
            )
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    """Play the three cases at each number of sites in turn, and write the table."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulate", description=__doc__)
    parser.add_argument("--sites", type=int, nargs="+", default=list(SIZES), help="even numbers")
    rounds_told = "of each run; the first is not timed"
    parser.add_argument("--rounds", type=at_least(2), default=4, help=rounds_told)
    parser.add_argument("--repeat", type=at_least(1), default=3, help="runs of each case, in turn")
    parser.add_argument(
        "--quick", action="store_true", help="two rounds of ten sites, two cases side by side, once"
    )
    told = with_output(parser).parse_args(given)
    sizes, rounds, repeat = ([10], 2, 1) if told.quick else (told.sites, told.rounds, told.repeat)
    cases = (COHORT, STOCK) if told.quick else CASES
    if any(size < NODES or size % NODES for size in sizes):
        parser.error(f"--sites that {NODES} nodes can share evenly")
    found: dict[int, dict[str, list[Played]]] = {
        sites: {case: [] for case in cases} for sites in sizes
    }
    with tempfile.TemporaryDirectory() as name:
        for number in range(repeat):
            for sites in sizes:
                folder = Path(name) / f"{sites}-{number}"
                played = compare(cases, sites, rounds, folder, side_by_side=told.quick)
                for case, one in played.items():
                    found[sites][case].append(one)
        operations_ = least_operations(folder) / sites
    machine = limits("cpu", torch.float32)
    notes = [
        machine.told(),
        ("Side by side: no figures to keep. " if told.quick else "")
        + f"Medians of {times(repeat, 'run')} of {rounds} rounds each; the rate is of the rounds after "
        "the first, from the end of "
        "one to the end of the next: ours ends with a checkpoint on the disk, and measures each "
        "site's validation data besides its test data, which stock Flower has not. At best: the "
        f"{operations_ / 1e6:.0f} MFLOP of a site and round (training and test data), at the rate of a "
        "large matrix product. Memory is the "
        "most, at looks half a second apart, of the SuperLink and all processes that it started, "
        "shared pages counted once. The averages are those after the last round, and the largest "
        "difference of a parameter from stock Flower's.",
    ]
    more = {
        "played": {
            str(sites): {
                case: [[one.rate, one.memory] for one in each] for case, each in cases.items()
            }
            for sites, cases in found.items()
        },
        "operations": operations_,
        "limits": asdict(machine),
    }
    command = command_of("benchmarks.simulate", given)
    made = table(found, machine.product / operations_)
    write(output_of(told), "simulate", [made], command=command, notes=notes, more=more)


if __name__ == "__main__":
    main()
