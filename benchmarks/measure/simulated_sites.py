"""One perceptron, trained by FedAvg over the same simulated sites by each of several programs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks.flower.local_simulator import LocalSimulator
from benchmarks.flower.round_ends import our_rounds
from benchmarks.flower.simulator import RunConfig, Simulator
from benchmarks.flower.site_data import (
    CLASSES,
    FEATURES,
    write_measurements,
    write_site_data,
)
from benchmarks.flower.stock import copy_app, stock_summary
from benchmarks.measure.limits import operations
from benchmarks.measure.watch import Watch
from benchmarks.peers.environment import PLAIN_PEER, Found
from benchmarks.peers.program import Program
from models import weights
from server_app.compose import compose
from strategies.config import plan_for
from strategies.methods import make_method
from strategies.partitioned_model import build_partitioned

LOCAL = "ours, `fedstrata run` in cohorts"
COHORT = "ours, `flwr run` in cohorts"
SINGLE = "ours, `flwr run`, a node for each site"
STOCK = "stock Flower FedAvg"
PLAIN = "plain loop"
PFL, PFL_EVALUATED = "pfl-research", "pfl-research, its evaluation"
CASES = (LOCAL, COHORT, SINGLE, STOCK, PLAIN, PFL, PFL_EVALUATED)
OF_PEERS = {PLAIN_PEER: (PLAIN,), "pfl": (PFL, PFL_EVALUATED)}
"""The cases of each library of ``--peers``."""
PROGRAMS = {
    PLAIN: "benchmarks.peers.plain_loop",
    PFL: "benchmarks.peers.pfl_loop",
    PFL_EVALUATED: "benchmarks.peers.pfl_loop",
}
NODES = 2  # of a run in cohorts
RATE, BATCH = 0.02, 32
OURS = (
    "method=fedavg",
    f"train.batch_size={BATCH}",
    f"train.optimizer.lr={RATE}",
    # As the quickstart trains.
    "train.optimizer.weight_decay=0",
    "train.clip=null",
    "train.schedule=constant",
    "baselines.alone=false",
    # As the others: one task, and no file of each site's model.
    "data.task=activity",
    "keep_models=none",
)


@dataclass(frozen=True)
class Work:
    """What every case does.

    Parameters
    ----------
    data : Path
        Folder that `write_data` has written.
    sites, rounds, epochs : int
        Sites; rounds of all of them; passes over a site's training data in each.
    """

    data: Path
    sites: int
    rounds: int
    epochs: int


@dataclass(frozen=True)
class Run:
    """What a run cost, and the model that it ended with.

    Parameters
    ----------
    rate : float
        Rounds times sites per second, without the first round.
    first, seconds : float
        Seconds from the command to the end of the first round, and to its own end.
    memory : float
        Most bytes of all processes together; what they share is counted once.
    processor : float
        Processor seconds of all processes per site and round, without the first round.
    average : tuple of NDArray
        The parameters at the end, in the network's order.
    """

    rate: float
    first: float
    seconds: float
    memory: float
    processor: float
    average: tuple[NDArray[np.float32], ...]


def write_data(folder: Path, sites: int) -> None:
    """Write the sites' measurements for ours and for the others, and the start of all."""
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


def least_operations(work: Work) -> float:
    """Return the floating point operations of a round of all sites.

    Forward and backward over each training example, as often as there are epochs, and forward over
    each test example.
    """
    network = perceptron()
    one = torch.zeros(1, FEATURES)
    forward = operations(lambda: network(one))
    both = operations(lambda: network(one).sum().backward())
    trained = tested = 0
    for index in range(work.sites):
        with np.load(work.data / "sites" / f"{index}.npz", allow_pickle=False) as arrays:
            trained, tested = trained + len(arrays["train_y"]), tested + len(arrays["test_y"])
    return work.epochs * trained * both + tested * forward


def simulator_of(case: str, folder: Path, actors: int, peers: Mapping[str, Found]) -> Simulator:
    """Return what runs a case, with its homes and logs in ``folder``."""
    if case in PROGRAMS:
        program = Program(folder, actors, module=PROGRAMS[case])
        for name, found in peers.items():
            if case in OF_PEERS[name]:
                program.python = found.python
        return program
    return LocalSimulator(folder, actors) if case == LOCAL else Simulator(folder, actors)


def run_case(simulator: Simulator, case: str, work: Work, output: Path) -> Run:
    """Run one case, which writes into the folder ``output``."""
    output.mkdir(parents=True)
    nodes = NODES if case in (LOCAL, COHORT) else work.sites
    app = str(copy_app(output)) if case == STOCK else "."
    config = run_config(case, work, nodes, output)
    simulator.start()
    try:
        with Watch(simulator.processes, output) as watch:
            begun = time.time()
            simulator.run(f"{work.sites}-{CASES.index(case)}", nodes, config, app=app)
            seconds = time.time() - begun
    finally:
        simulator.stop()
    logs = simulator.processes.logs
    if case in (LOCAL, COHORT, SINGLE):
        _, ended = our_rounds(watch.ends, case, work.sites, logs)
        average = our_average(output)
    else:
        rounds, _ = stock_summary(output, work.sites, logs, case)
        ended, average = [each["ended"] for each in rounds], written_average(output)
    times_sites = (len(ended) - 1) * work.sites
    return Run(
        rate=times_sites / (ended[-1] - ended[0]),
        first=ended[0] - begun,
        seconds=seconds,
        memory=watch.memory,
        processor=watch.between(ended[0], ended[-1]) / times_sites,
        average=average,
    )


def run_config(case: str, work: Work, nodes: int, output: Path) -> RunConfig:
    """Return the run config of a case, or the options of its program."""
    if case in (LOCAL, COHORT, SINGLE):
        overrides = [
            *OURS,
            f"train.epochs={work.epochs}",
            f"strategy.rounds={work.rounds}",
            f"cohort.sites={work.sites // nodes}",
        ]
        return {
            "experiment": "har",
            "data-root": str(work.data / "har.npz"),
            "output-dir": str(output),
            "overrides": " ".join(overrides),
        }
    of_all: dict[str, str | int | float] = {
        "num-server-rounds": work.rounds,
        "local-epochs": work.epochs,
        "lr": RATE,
        "batch-size": BATCH,
        "sites": work.sites,
        "data": str(work.data / "sites"),
        "start": str(work.data / "start.npz"),
        "output": str(output),
    }
    if case in (PFL, PFL_EVALUATED):
        return {**of_all, "evaluate": int(case == PFL_EVALUATED)}
    return {**of_all, "model": "mlp"} if case == STOCK else of_all


def written_average(output: Path) -> tuple[NDArray[np.float32], ...]:
    """Return the parameters that the stock app or a peer's program wrote."""
    with np.load(output / "average.npz", allow_pickle=False) as arrays:
        return tuple(arrays[name] for name in sorted(arrays))


def our_average(output: Path) -> tuple[NDArray[np.float32], ...]:
    """Return the parameters in the last checkpoint of our run."""
    last = max(output.glob("*/checkpoints/round-*"))
    state, _ = weights.load(last / "state.safetensors")
    names = [name for name, _ in perceptron().named_parameters()]
    return tuple(state[f"state/common//{name}"].numpy() for name in names)


def largest_difference(one: Run, other: Run) -> float:
    """Return the largest difference of a parameter between two averages."""
    pairs = zip(one.average, other.average, strict=True)
    return max(float(np.abs(a - b).max()) for a, b in pairs)
