"""How many sites of a cohort train best as one: `python -m benchmarks.stacks`.

A round of many small sites on one device: one after the other by ours and by a plain loop, and stacked,
so many at once. All begin from the same weights over the same batches, so they must end at the same
average. It needs torch alone, without Flower, so it also runs on a GPU that has nothing else
(`--device cuda`).
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks.measure.fresh_process import in_fresh_process, largest_difference
from benchmarks.measure.limits import limits
from benchmarks.measure.stacked_sites import NETWORKS, PLAIN, Case, Cost, least_operations, train
from benchmarks.measure.turns import in_turn, median_of
from benchmarks.report.command_line import add_repeat, at_least, make_parser
from benchmarks.report.tables import Table, times, write

PRELOAD = ("benchmarks.measure.stacked_sites",)
# Of a tensor's norm. Stacked convolutions add in another order, and a feature that is all but zero may
# pass a ReLU in one way and not in the other; a GPU's use numbers with 10 bits after the point (TF32).
TOLERANCE = {"cpu": 1e-3, "cuda": 2e-2}
AT_ONCE = (1, 4, 16, 64)
QUICK_AT_ONCE = (1, 2)


def cases_of(options: argparse.Namespace) -> list[Case]:
    """Return what the command line asks for, the plain loop first."""
    return [
        Case(network, at_once, options.sites, options.examples)
        for network in options.networks
        for at_once in (PLAIN, *sorted(set(options.at_once)))
    ]


def measure(
    cases: Sequence[Case], repeat: int, device: str, folder: Path
) -> dict[Case, list[Cost]]:
    """Train each case in turn, in fresh processes; exit where their averages differ."""

    def once(case: Case, _: int) -> Cost:
        cost = in_fresh_process(PRELOAD, train, case, folder / case.name, device)
        print(case.name, f"{cost.seconds:.2f} s", flush=True)
        return cost

    found = in_turn(cases, repeat, once)
    for case in cases:
        apart = largest_difference(folder / case.name, folder / case.plain.name)
        if not apart <= TOLERANCE[torch.device(device).type]:
            raise SystemExit(f"{case.name} and {case.plain.name} differ by {apart:g}")
    return found


def table(found: dict[Case, list[Cost]], product: float) -> Table:
    """Return the medians; ``product`` are the operations per second of a large matrix product."""
    sites = max(case.sites for case in found)
    made = Table(
        f"A round of {times(sites, 'site')} on one device",
        (
            "network, sites at once",
            "seconds a round",
            "sites / s",
            "times the plain loop",
            "share of the matrix rate, %",
            "memory, MB",
        ),
    )
    for case, costs in found.items():
        seconds = median_of(costs, lambda cost: cost.seconds)
        plain = median_of(found[case.plain], lambda cost: cost.seconds)
        made.rows[case.name] = (
            f"{seconds:.2f}",
            f"{case.sites / seconds:.0f}",
            "-" if case.at_once == PLAIN else f"{plain / seconds:.2f}",
            f"{100 * least_operations(case) / seconds / product:.1f}",
            f"{median_of(costs, lambda cost: cost.memory) / 1e6:.0f}",
        )
    return made


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = make_parser("stacks", __doc__, quick="four sites, one or two at once, once")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--sites", type=at_least(2), default=64)
    examples_help = "of each site, in batches of 10"
    parser.add_argument("--examples", type=at_least(1), default=100, help=examples_help)
    parser.add_argument("--at-once", type=at_least(1), nargs="+", default=AT_ONCE, metavar="N")
    add_repeat(parser, 3, "of each case, in turn")
    options = parser.parse(arguments)
    if options.quick:
        options.sites, options.examples, options.at_once, options.repeat = 4, 20, QUICK_AT_ONCE, 1
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the cases, and write the table."""
    options = parse(arguments)
    with tempfile.TemporaryDirectory() as name:
        found = measure(cases_of(options), options.repeat, options.device, Path(name))
    machine = limits(options.device, torch.float32)
    on_gpu = torch.device(options.device).type == "cuda"
    memory = "what torch allocated on the GPU" if on_gpu else "what the process added"
    write(
        options.output,
        "stacks-gpu" if on_gpu else "stacks",
        [table(found, machine.product)],
        command=options.command,
        notes=[
            machine.describe(),
            f"Medians. A site has {options.examples} examples in batches of 10: one pass, plain SGD, "
            f"float32. Memory is {memory} at most. The plain loop has a site's examples on the device at "
            "once, a stack those of its sites; one after the other they come by batch.",
        ],
        more={
            "costs": [
                {**asdict(c), **asdict(cost)} for c, costs in found.items() for cost in costs
            ],
            "limits": asdict(machine),
        },
    )


if __name__ == "__main__":
    main()
