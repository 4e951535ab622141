"""Sites with different networks: `python -m benchmarks.heterogeneous --har FILE --mnist FILE`.

Four networks in turn over eight sites, UCI HAR and MNIST, each split in two ways: a table of all
methods that need no common network, beside each site alone. Finished runs stay in --work and are
not run again, so a command that was broken off goes on where it was.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.accuracy import heterogeneous_sets as sets
from benchmarks.accuracy.heterogeneous_sets import HeterogeneousSet
from benchmarks.accuracy.heterogeneous_table import HeterogeneousTable
from benchmarks.accuracy.htfllib import FinishedHtPeer, HtPeer
from benchmarks.accuracy.personalised_sets import FOR_DIFFERENT_NETWORKS, cases, method_of
from benchmarks.accuracy.study import Case
from benchmarks.flower.local_simulator import LocalSimulator
from benchmarks.flower.simulator import Finished
from benchmarks.personalised import play, rate
from benchmarks.report.command_line import (
    Parser,
    add_data,
    add_runs,
    at_least,
    check_data,
    make_parser,
)
from fedstrata.support.errors import UserError

SETS = tuple(f"{name}-{scheme}" for name in ("har", "mnist") for scheme in sets.SCHEMES)
BESIDE = "htfe2-dirichlet"  # with the networks that HtFLlib has as well
METHODS = ("local", "lg_fedavg", *FOR_DIFFERENT_NETWORKS)
RATES = (0.01, 0.05)
QUICK_METHODS = ("local", "lg_fedavg", "fedproto")


def parser() -> Parser:
    """Return the command line."""
    quick = "two rounds, one rate, one seed and three methods over four sites of drawn faces"
    made = make_parser("heterogeneous", __doc__, quick=quick)
    made.add_argument("--sets", choices=(*SETS, BESIDE), nargs="+", default=SETS)
    made.add_argument(
        "--methods",
        nargs="+",
        default=METHODS,
        help="as fedproto or fedproto:predict=nearest,weight=1; all when omitted",
    )
    made.add_argument(
        "--rates",
        type=rate,
        nargs="+",
        default=RATES,
        help="learning rates, of which validation data choose one for each method",
    )
    made.add_argument("--rounds", type=at_least(1), help="of each run; of the set when omitted")
    add_data(made, "--har", "har.npz", "UCI HAR, an npz file")
    add_data(made, "--mnist", "mnist_dirichlet01_20.zip", "MNIST in npz shards, or their zip")
    made.add_argument(
        "--finished",
        action="store_true",
        help="write the tables of the runs in --work that are finished, and play none",
    )
    made.add_argument("--htfllib", type=Path, help=f"HtFLlib's checkout, to play the set {BESIDE}")
    made.add_argument("--htfllib-python", type=Path, help="the Python of its environment; ours")
    return add_runs(made)


def main(arguments: Sequence[str] | None = None) -> None:
    """Play the chosen methods over the chosen sets, and write their tables."""
    options = parser().parse(arguments)
    if options.quick:
        options.rates, options.seeds = (0.05,), [1]
        if options.methods == METHODS:
            options.methods = QUICK_METHODS
    else:
        check_data(parser(), options, sorted(needed(options.sets)))
    try:
        chosen = tuple(map(with_last_layer, cases(options.methods, METHODS)))
    except UserError as error:
        parser().error(f"--methods: {error}")
    peer = _peer(options)
    work = options.work.resolve()
    rates, seeds = tuple(sorted(set(options.rates))), tuple(options.seeds)
    wanted = ["faces"] if options.quick else options.sets
    tables = [
        HeterogeneousTable(choose(name, options, work), chosen, rates, seeds, peer)
        for name in wanted
    ]
    simulator = (Finished if options.finished else LocalSimulator)(work)
    play(parser(), options, tables, simulator)


def needed(names: Sequence[str]) -> set[str]:
    """Return the options whose data these sets read."""
    return {"--har" if name.startswith("har") else "--mnist" for name in names}


def with_last_layer(case: Case) -> Case:
    """Return the case in which only what has the same shape everywhere is shared."""
    return Case(case.name, (*case.overrides, *sets.LAST_LAYER.get(method_of(case), ())))


def _peer(options: argparse.Namespace) -> HtPeer | None:
    if options.htfllib is None:
        return None
    checkout = options.htfllib.resolve()
    if options.finished:
        return FinishedHtPeer(checkout)
    if not (checkout / "system" / "main.py").is_file():
        parser().error(
            f"--htfllib: {options.htfllib} has no system/main.py; give HtFLlib's checkout"
        )
    return HtPeer(checkout, (options.htfllib_python or Path(sys.executable)).absolute())


def choose(name: str, options: argparse.Namespace, work: Path) -> HeterogeneousSet:
    """Return the set called ``name``."""
    if name == "faces":
        return sets.faces(options.rounds)
    data, _, scheme = name.partition("-")
    make = {"har": sets.har, "mnist": sets.mnist, "htfe2": sets.htfe2}[data]
    source = options.har if data == "har" else options.mnist
    return make(source.resolve(), work / "data", scheme, options.rounds)


if __name__ == "__main__":
    main()
