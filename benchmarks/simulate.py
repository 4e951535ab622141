"""Many simulated sites on one machine: `python -m benchmarks.simulate`.

Ours in cohorts (two nodes with half of the sites each) by `fedstrata run` and by `flwr run`, stock
Flower's FedAvg as its quickstart writes it, and other libraries (`--peers`): a plain loop in torch, and
pfl-research. Ours with a node for each site can be chosen (`--cases`). All train one perceptron (561
features, 82,470 parameters) on the same seeded measurements, one case after the other in each turn.
They begin from the same weights and take each site's examples as one batch, so they must end at the
same average.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from benchmarks.measure.limits import Limits, limits
from benchmarks.measure.simulated_sites import (
    COHORT,
    LOCAL,
    NODES,
    OF_PEERS,
    PLAIN,
    SINGLE,
    STOCK,
    Run,
    Work,
    largest_difference,
    least_operations,
    run_case,
    simulator_of,
    write_data,
)
from benchmarks.measure.turns import in_turn, median_of, medians
from benchmarks.peers.environment import PLAIN_PEER, Found, add_peers, find_peers
from benchmarks.report.command_line import add_repeat, at_least, check_compiled, make_parser
from benchmarks.report.tables import Table, times, write

CASES_OF_OURS = {"local": LOCAL, "cohorts": COHORT, "single": SINGLE, "stock": STOCK}
SIZES = (10, 100, 500)
MEGABYTE = 1e6
TOLERANCE = 1e-5  # what a parameter of two averages may differ by
Runs = dict[int, dict[str, list[Run]]]


@dataclass(frozen=True)
class Wanted:
    """A case that is played, up to so many sites; None for any number."""

    case: str
    most: int | None = None

    @classmethod
    def read(cls, text: str) -> Wanted:
        """Read ``stock`` or ``stock:100``."""
        name, colon, most = text.partition(":")
        if name not in CASES_OF_OURS or (colon and not most.isdecimal()):
            raise argparse.ArgumentTypeError(
                f"{text!r} is none of {', '.join(CASES_OF_OURS)}, such as stock, or stock:100 for "
                "up to 100 sites"
            )
        return cls(CASES_OF_OURS[name], int(most) if colon else None)

    def plays(self, sites: int) -> bool:
        """Return whether it is played with so many sites."""
        return self.most is None or sites <= self.most


def compare(
    cases: Sequence[str],
    work: Work,
    folder: Path,
    peers: Mapping[str, Found],
    *,
    side_by_side: bool,
) -> dict[str, Run]:
    """Run the cases in turn, or side by side with a core each: quicker, and no figures to keep.

    Exits where two of them end with different averages.
    """

    def once(case: str, _: int) -> Run:
        run = run_case(simulators[case], case, work, folder / f"output-{cases.index(case)}")
        print(
            f"{work.sites} sites, {case}: {run.rate:.1f} sites x rounds / s, "
            f"{run.memory / MEGABYTE:.0f} MB, {run.seconds:.0f} s in all",
            flush=True,
        )
        return run

    actors = 1 if side_by_side else os.cpu_count() or 1
    with ExitStack() as stack:
        simulators = {
            case: stack.enter_context(simulator_of(case, folder / f"home-{number}", actors, peers))
            for number, case in enumerate(cases)
        }
        found = in_turn(cases, 1, once, side_by_side=side_by_side)
    runs = {case: run for case, (run,) in found.items()}
    with_all = reference(cases)
    for case, run in runs.items():
        if not (far := largest_difference(run, runs[with_all])) <= TOLERANCE:
            raise SystemExit(f"{work.sites} sites: {case} and {with_all} differ by {far:g}")
    return runs


def reference(cases: Sequence[str]) -> str:
    """Return the case to which averages are compared: stock Flower, or else the plain loop."""
    return next((case for case in (STOCK, PLAIN) if case in cases), cases[-1])


def table(found: Mapping[int, Mapping[str, Sequence[Run]]], at_best: float) -> Table:
    """Return the medians, and the largest difference from the average of `reference`.

    ``at_best`` is the sites x rounds per second that the arithmetic alone allows.
    """
    made = Table(
        f"{' and '.join(map(str, found))} simulated sites, a perceptron",
        (
            "sites, case",
            "sites x rounds / s",
            "against stock",
            "at best / this",
            "to the end of round 1, s",
            "to the result, s",
            "memory, MB",
            "processor, ms a site and round",
            "average apart",
        ),
    )
    for sites, cases in found.items():
        rates = medians(cases, lambda run: run.rate)
        with_all = reference(list(cases))
        for case, runs in cases.items():
            pairs = zip(runs, cases[with_all], strict=True)
            against = rates[case] / rates[STOCK] if STOCK in cases and case != STOCK else None
            made.rows[f"{sites}, {case}"] = (
                f"{rates[case]:.1f}",
                "-" if against is None else f"{against:.1f} times",
                f"{at_best / rates[case]:.0f}",
                f"{median_of(runs, lambda run: run.first):.1f}",
                f"{median_of(runs, lambda run: run.seconds):.1f}",
                f"{median_of(runs, lambda run: run.memory) / MEGABYTE:.0f}",
                f"{1000 * median_of(runs, lambda run: run.processor):.2f}",
                "-" if case == with_all else f"{max(largest_difference(*p) for p in pairs):.1e}",
            )
    return made


def notes(options: argparse.Namespace, machine: Limits, least: float) -> list[str]:
    """Return what the reader must know; ``least`` are the operations of a site and round."""
    quick = "Side by side: no figures to keep. " if options.quick else ""
    of_rounds = f"{times(options.repeat, 'run')} of {options.rounds} rounds"
    return [
        machine.describe(),
        f"{quick}Medians of {of_rounds} with {times(options.epochs, 'epoch')} each. Rate and processor "
        "time are of the rounds after the first, from the end of one to the end of the next. All "
        "processes have one thread each; ours and stock Flower have a process for each core, the plain "
        "loop and pfl-research one process.",
        "The command is `fedstrata run`, `flwr run` (its SuperLink runs already) or the program; until "
        "the end of round 1 it imports and reads the data, and the result is what stands when it ends. "
        "Ours reads the table of all sites and splits it; the others read a file for each site, which "
        "was made before. Ours ends a round with a checkpoint on the disk, and measures each site's "
        "validation data besides its test data. The plain loop measures test data alone, and "
        "pfl-research nothing, or with its evaluation each site's training data twice and its test data.",
        f"At best: the {least / 1e6:.0f} MFLOP of a site and round (training and test data), at the "
        f"rate of a large matrix product, {machine.product / least:.0f} sites x rounds / s. Memory is "
        "the most, at looks half a second apart, of all processes of a run, its SuperLink too, shared "
        "pages counted once. The averages are those after the last round, and the largest difference of "
        "a parameter from stock Flower's, or where that is not played from the plain loop's.",
    ]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command line, with ``found`` of each peer."""
    quick_help = "two rounds of ten sites, cases side by side, once"
    parser = make_parser("simulate", __doc__, quick=quick_help)
    parser.add_argument("--sites", type=int, nargs="+", default=list(SIZES), help="even numbers")
    rounds_help = "of each run; the first is not timed"
    parser.add_argument("--rounds", type=at_least(2), default=4, help=rounds_help)
    epochs_help = "passes over a site's training data in a round"
    parser.add_argument("--epochs", type=at_least(1), default=3, help=epochs_help)
    parser.add_argument(
        "--cases",
        type=Wanted.read,
        nargs="*",
        metavar="CASE[:SITES]",
        help=f"of {', '.join(CASES_OF_OURS)}, each up to a number of sites (local cohorts stock; "
        "local stock with --quick)",
    )
    add_peers(parser, tuple(OF_PEERS), (PLAIN_PEER,))
    add_repeat(parser, 3, "runs of each case, in turn")
    options = parser.parse(arguments)
    if options.cases is None:
        cases = (LOCAL, STOCK) if options.quick else (LOCAL, COHORT, STOCK)
        options.cases = [Wanted(case) for case in cases]
    if options.quick:
        options.sites, options.rounds, options.repeat = [10], 2, 1
    if any(size < NODES or size % NODES for size in options.sites):
        parser.error(f"--sites that {NODES} nodes can share evenly")
    for size in options.sites:
        if not played(options, size):
            parser.error(f"--cases and --peers leave nothing to play with {size} sites")
    check_compiled(parser, options)
    options.found = find_peers(parser, options)
    return options


def played(options: argparse.Namespace, sites: int) -> list[str]:
    """Return the cases with so many sites."""
    ours = [wanted.case for wanted in options.cases if wanted.plays(sites)]
    peers = [case for name in options.peers for case in OF_PEERS[name]]
    return list(dict.fromkeys([*ours, *peers]))


def measure(options: argparse.Namespace, folder: Path) -> tuple[Runs, float]:
    """Run all cases; return the runs by sites and case, and the operations of a site and round."""
    works = {
        sites: Work(folder / f"data-{sites}", sites, options.rounds, options.epochs)
        for sites in options.sites
    }
    for work in works.values():
        write_data(work.data, work.sites)
    found: Runs = {sites: {case: [] for case in played(options, sites)} for sites in works}
    for number in range(options.repeat):
        for sites, work in works.items():
            place, cases = folder / f"{sites}-{number}", list(found[sites])
            runs = compare(cases, work, place, options.found, side_by_side=options.quick)
            for case, run in runs.items():
                found[sites][case].append(run)
    return found, least_operations(work) / work.sites


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the cases at each number of sites in turn, and write the table."""
    options = parse(arguments)
    with tempfile.TemporaryDirectory() as name:
        found, least = measure(options, Path(name))
    machine = limits("cpu", torch.float32)
    write(
        options.output,
        "simulate",
        [table(found, machine.product / least)],
        command=options.command,
        notes=notes(options, machine, least),
        more={
            "played": {
                str(sites): {case: [figures(run) for run in runs] for case, runs in each.items()}
                for sites, each in found.items()
            },
            "peers": {name: each.versions for name, each in options.found.items()},
            "operations": least,
            "limits": asdict(machine),
        },
    )


def figures(run: Run) -> dict[str, float]:
    """Return what a run cost, without its average."""
    names = ("rate", "first", "seconds", "memory", "processor")
    return {name: getattr(run, name) for name in names}


if __name__ == "__main__":
    main()
