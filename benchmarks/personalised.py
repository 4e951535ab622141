"""Personalised methods: `python -m benchmarks.personalised --sets har mnist pacs faces`.

Each set of data gives a table of all methods over the same sites, beside training alone, all data in
one place and the majority class. Finished runs stay in --work and are not run again, so a command that
was broken off goes on where it was.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import conf
from benchmarks.accuracy import personalised_sets, pfllib, prepare
from benchmarks.accuracy.personalised_sets import PersonalSet, cases
from benchmarks.accuracy.personalised_table import PersonalTable
from benchmarks.flower.local_simulator import LocalSimulator
from benchmarks.flower.simulator import Finished, Simulator
from benchmarks.report.command_line import (
    Parser,
    add_data,
    add_runs,
    at_least,
    check_data,
    make_parser,
)
from fedstrata.support.errors import UserError
from strategies.methods import make_method

SETS = ("har", "mnist", "pacs", "faces")
LARGE = "cifar100"  # 2,000 rounds, for a GPU
READS = {
    "har": ("--har",),
    "mnist": ("--mnist",),
    "pacs": ("--pacs", "--weights"),
    LARGE: ("--cifar100",),
}
FIRST = ("local", "fedavg")  # the rows that all others are compared with
# With all layers common `layers` is fedavg.
NOT_COMPARED = ("layers", *personalised_sets.FOR_DIFFERENT_NETWORKS)
RATES = (0.005, 0.02, 0.08)
QUICK_METHODS = ("local", "fedavg", "fedper")


def methods() -> tuple[str, ...]:
    """Return the methods that are compared here, those that all are compared with first."""
    return (*FIRST, *(name for name in existing() if name not in (*FIRST, *NOT_COMPARED)))


def existing() -> list[str]:
    """Return the methods of conf/method."""
    return sorted(path.stem for path in Path(conf.__file__).parent.glob("method/*.yaml"))


def parser() -> Parser:
    """Return the command line."""
    quick = (
        "two rounds, one rate, one seed, three methods over four sites: of drawn faces, or with "
        f"--sets {LARGE} of pictures of noise in files of its format"
    )
    made = make_parser("personalised", __doc__, quick=quick)
    made.add_argument("--sets", choices=(*SETS, LARGE), nargs="+", default=SETS)
    made.add_argument(
        "--methods",
        nargs="+",
        default=methods(),
        help="of conf/method, as fedprox or fedprox:mu=0.1; all for one network when omitted",
    )
    made.add_argument(
        "--rates",
        type=rate,
        nargs="+",
        default=RATES,
        help="learning rates, of which validation data choose one for each method",
    )
    made.add_argument("--rounds", type=at_least(1), help="of each run; of the set when omitted")
    add_data(made, "--har", "har.npz", "UCI HAR")
    add_data(made, "--mnist", "mnist_dirichlet01_20.zip", "MNIST in 20 npz shards, or their zip")
    add_data(made, "--pacs", "pacs_subset.zip", "PACS, a folder or a zip archive")
    add_data(
        made, "--weights", "squeezenet1_1_torchvision.npz", "ImageNet's SqueezeNet 1.1, for PACS"
    )
    made.add_argument(
        "--every",
        type=at_least(1),
        default=1,
        help="use one of so many examples of each shard of MNIST, for a quicker look; PFLlib too",
    )
    add_data(made, "--cifar100", "cifar-100-binary", "CIFAR-100's binary version")
    made.add_argument(
        "--gpus",
        type=_share,
        default=0.0,
        help="share of a GPU for each node, such as 1 with --nodes 1; PFLlib gets it too",
    )
    made.add_argument(
        "--nodes",
        type=at_least(1),
        help="SuperNodes of equally many sites each (cohorts), which is quicker; one a site if omitted",
    )
    made.add_argument(
        "--finished",
        action="store_true",
        help="write the tables of the runs in --work that are finished, and play none",
    )
    made.add_argument("--pfllib", type=Path, help="PFLlib's checkout, to play the shards of MNIST")
    made.add_argument("--pfllib-python", type=Path, help="the Python of its environment; ours")
    made.add_argument(
        "--pfllib-rounds",
        type=at_least(1),
        help="rounds that PFLlib plays; ours stand beside it after as many. As many as ours if omitted",
    )
    return add_runs(made)


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no share of a GPU from 0 to 1")
    return share


def rate(text: str) -> float:
    """Return a learning rate of the command line."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 100:
        raise argparse.ArgumentTypeError(f"{text!r} is no learning rate above 0")
    return value


def main(arguments: Sequence[str] | None = None) -> None:
    """Play the chosen methods over the chosen sets, and write their tables."""
    options = parser().parse(arguments)
    if options.quick:
        options.rates, options.seeds = (0.02,), [1]
        options.sets = [name for name in options.sets if name == LARGE] or ["faces"]
        if options.methods == methods():
            options.methods = QUICK_METHODS
    needed = [each for name in options.sets if not options.quick for each in READS.get(name, ())]
    check_data(parser(), options, needed)
    try:
        chosen = cases(options.methods, existing())
    except UserError as error:
        parser().error(f"--methods: {error}")
    peer = _peer(options)
    work = options.work.resolve()
    # Central training finds what it looks up where the simulations have it.
    os.environ["FEDSTRATA_HOME"] = str(work / "home")
    rates, seeds = tuple(sorted(set(options.rates))), tuple(options.seeds)
    tables = [
        PersonalTable(
            choose(name, options, work),
            chosen,
            rates,
            seeds,
            peer,
            options.nodes,
            options.pfllib_rounds,
        )
        for name in options.sets
    ]
    for table in tables:
        if options.nodes and table.dataset.sites % options.nodes:
            parser().error(
                f"--nodes: {table.dataset.sites} sites are not {options.nodes} equal parts"
            )
    simulator = (Finished if options.finished else LocalSimulator)(work, gpus=options.gpus)
    play(parser(), options, tables, simulator)


def play(
    made: Parser,
    options: argparse.Namespace,
    tables: Sequence[PersonalTable],
    simulator: Simulator,
) -> None:
    """Play the runs of all tables, which have the same cases, and write the tables."""
    first = tables[0]
    try:  # a wrong option of a method is named now, and not in the middle of the night
        for case in first.cases:
            make_method(first.study.config(case, first.seeds[0]).method)
    except UserError as error:
        made.error(f"--methods: {error}")
    with simulator:
        for table in tables:
            table.run(simulator, options.output, options.command.replace(" --finished", ""))


def _peer(options: argparse.Namespace) -> pfllib.Peer | None:
    if options.pfllib is None:
        return None
    if options.finished:
        return pfllib.FinishedPeer(options.pfllib.resolve())
    if not (options.pfllib / "system" / "main.py").is_file():
        parser().error(f"--pfllib: {options.pfllib} has no system/main.py; give PFLlib's checkout")
    device = "cuda" if options.gpus else "cpu"
    python = (options.pfllib_python or Path(sys.executable)).absolute()
    return pfllib.Peer(options.pfllib.resolve(), python, device)


def choose(name: str, options: argparse.Namespace, work: Path) -> PersonalSet:
    """Return the set called ``name``."""
    rounds = options.rounds
    if name == LARGE and options.quick:
        files = prepare.made_up_cifar100(work / "data" / "made-up-cifar100")
        return personalised_sets.cifar100(files, rounds or 2, sites=4)
    if name == LARGE:
        return personalised_sets.cifar100(options.cifar100.resolve(), rounds)
    if options.quick:
        return personalised_sets.faces(rounds or 2, sites=4, train=40)
    if name == "faces":
        return personalised_sets.faces(rounds)
    if name == "har":
        return personalised_sets.har(options.har.resolve(), rounds)
    if name == "mnist":
        return personalised_sets.mnist(
            prepare.shards(options.mnist.resolve(), work / "data", options.every),
            rounds,
            options.every,
        )
    return personalised_sets.pacs(
        prepare.pacs(options.pacs.resolve(), work / "data"), options.weights.resolve(), rounds
    )


if __name__ == "__main__":
    main()
