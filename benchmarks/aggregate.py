"""How fast a server aggregates, and in how much memory: `python -m benchmarks.aggregate`.

Replies of a ResNet-18 (45 MB) in two groups, ours and Flower's own strategy in turn, each in a fresh
process: 10, 100 and 1,000 for the mean, 10 and 100 for median, trimmed mean and Krum. Replies are made
one at a time. Seconds are from a reply's bytes to the new state, without the making of the replies
and without the network. Memory is what is added to a process that has the model.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure.aggregation import (
    FLOWER,
    OURS,
    RULES,
    SIDES,
    Case,
    Cost,
    model,
    run_case,
    write_mean,
)
from benchmarks.measure.fresh_process import in_fresh_process, largest_difference
from benchmarks.measure.limits import Limits, limits
from benchmarks.measure.turns import in_turn, median_of
from benchmarks.report.command_line import add_repeat, at_least, make_parser
from benchmarks.report.tables import Table, write

COUNTS = (10, 100, 1000)
ROBUST_COUNTS = (10, 100)
QUICK_COUNTS = (5,)
PER_REPLY = 5  # times its bytes: read once, and twice as wide a sum read and written
TOLERANCE = 1e-6
EXACT = "the mean in float64"
ROUNDING = 1e-4
"""How far float32 sums of many replies, as Flower's are, may lie from their mean."""
PRELOAD = ("benchmarks.measure.aggregation", "torchvision")
FREE = 0.7  # share of the free memory that Flower's replies may take
NOTE = (
    "Medians. Ours: from a reply's bytes through the checks to the new state of both groups. "
    "Flower: from its replies, all of them in memory, to the new arrays, as bytes to be sent. "
    "Memory: the most that is added to a process that has the model; ours has one reply as bytes "
    "in it. At best: the bytes that must be moved, at the rate of a large copy, or for Krum the "
    "inner products at that of a large matrix product."
)


@dataclass(frozen=True)
class Row:
    """A row of the table: a rule, a number of replies, and the memory that a group may take."""

    rule: str
    count: int
    memory_mb: float | None = None

    @property
    def name(self) -> str:
        """How the table calls it."""
        within = f", within {self.memory_mb:g} MB a group" if self.memory_mb else ""
        return f"{self.rule}, {self.count}{within}"


Found = Mapping[Row, Mapping[str, Sequence[Cost]]]
"""The costs of each row on each side."""


def least_seconds(rule: str, count: int, size: int, at_best: Limits, doubles: Limits) -> float:
    """Return the seconds that no program could beat, by the bytes to move and Krum's products.

    The mean reads each reply once, and reads and writes a 64-bit sum; a rule that needs all
    replies reads each once and writes the result. Krum's n*n distances are n*(n+1)/2 inner
    products in float64.
    """
    if rule == "fedavg":
        return PER_REPLY * count * size / at_best.copy
    moved = (count + 1) * size / at_best.copy
    if rule == "krum":
        return max(moved, count * (count + 1) * (size / 4) / doubles.product)
    return moved


def room_for_flower(count: int, size: int) -> bool:
    """Return whether Flower's replies fit into the memory that is free now."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    entries = dict(line.split(":", 1) for line in lines if ":" in line)
    return count * size < FREE * 1024 * int(entries["MemAvailable"].split()[0])


def table(found: Found, size: int, at_best: Limits, doubles: Limits) -> Table:
    """Return medians, the ratio and the limit of every row.

    ``doubles`` are the limits with products in float64.
    """
    made = Table(
        f"Aggregating replies of {size / 1e6:.0f} MB",
        (
            "rule, replies",
            "ours, s",
            "Flower, s",
            "Flower / ours",
            "at best, s",
            "ours / at best",
            "ours, memory",
            "Flower, memory",
        ),
    )
    for row, sides in found.items():
        ours, theirs = (median_of(sides[side], lambda cost: cost.total) for side in SIDES)
        least = least_seconds(row.rule, row.count, size, at_best, doubles)
        made.rows[row.name] = (
            f"{ours:.2f}",
            f"{theirs:.2f}" if sides[FLOWER] else f"needs {row.count * size / 1e9:.0f} GB",
            f"{theirs / ours:.1f}" if sides[FLOWER] else "-",
            f"{least:.2f}",
            f"{ours / least:.1f}",
            _memory(sides[OURS], size),
            _memory(sides[FLOWER], size) if sides[FLOWER] else "-",
        )
    return made


def _memory(costs: Sequence[Cost], size: int) -> str:
    taken = median_of(costs, lambda cost: cost.memory)
    return f"{taken / 1e6:.0f} MB, {taken / size:.1f} models"


def measure(
    row: Row, sides: Sequence[str], repeat: int, network: str, folder: Path
) -> dict[str, list[Cost]]:
    """Measure a row on ``sides``; each leaves its new state in ``folder``, in a file of its name."""

    def once(side: str, _: int) -> Cost:
        case = Case(row.rule, row.count, side, network, row.memory_mb)
        cost = in_fresh_process(PRELOAD, run_case, case, folder / side)
        processor = sum(cost.processor.values())
        seconds = f"{cost.total:.2f} s, {processor:.2f} s of processors"
        print(row.rule, row.count, side, seconds, flush=True)
        return cost

    return {side: [] for side in SIDES} | in_turn(sides, repeat, once)


def differences(row: Row, sides: Sequence[str], network: str, folder: Path) -> dict[str, float]:
    """Return how far the new states in ``folder`` differ; exit where it is more than rounding.

    Means are compared with one in float64, other rules with ours.
    """
    right = OURS
    if row.rule == "fedavg":
        right = EXACT
        in_fresh_process(PRELOAD, write_mean, network, row.count, folder / right)
    found = {}
    for left in sides:
        if left == right:
            continue
        pair = f"{row.rule}, {row.count}: {left} and {right}"
        found[pair] = largest_difference(folder / left, folder / right)
        if found[pair] > (ROUNDING if (left, right) == (FLOWER, EXACT) else TOLERANCE):
            raise SystemExit(
                f"{row.rule}, {row.count}: {left} and {right} differ by {found[pair]:g}"
            )
    return found


def rows_of(options: argparse.Namespace) -> Iterator[Row]:
    """Yield the rows that the command line asks for."""
    for rule in options.rules:
        counts = COUNTS if rule == "fedavg" else ROBUST_COUNTS
        for count in options.counts or (QUICK_COUNTS if options.quick else counts):
            yield Row(rule, count, options.memory_mb if rule != "fedavg" else None)


def to_json(found: Found) -> list[dict[str, Any]]:
    """Return every measurement for the JSON file."""
    return [
        {
            "rule": row.rule,
            "replies": row.count,
            "memory_mb": row.memory_mb,
            "side": side,
            "seconds": [cost.seconds for cost in costs],
            "processor": [cost.processor for cost in costs],
            "memory": [cost.memory for cost in costs],
        }
        for row, sides in found.items()
        for side, costs in sides.items()
    ]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = make_parser("aggregate", __doc__, quick="5 replies, once")
    add_repeat(parser, 5, "of each case on each side, in turn")
    parser.add_argument("--rules", nargs="+", choices=RULES, default=list(RULES))
    counts_help = "numbers of replies, instead of the usual"
    parser.add_argument("--counts", type=at_least(1), nargs="+", help=counts_help)
    memory_help = "for the rules that need all replies, as in conf/"
    parser.add_argument("--memory-mb", type=float, help=memory_help)
    parser.add_argument("--network", default="resnet18", help="the replies have its layers")
    return parser.parse(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every row, compare what came out, and write the table."""
    options = parse(arguments)
    size = sum(tensor.nbytes for tensor in model(options.network).values())
    found: dict[Row, dict[str, list[Cost]]] = {}
    far: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        for row in rows_of(options):
            sides = [s for s in SIDES if s == OURS or room_for_flower(row.count, size)]
            repeat = 1 if options.quick else options.repeat
            found[row] = measure(row, sides, repeat, options.network, Path(name))
            far |= differences(row, sides, options.network, Path(name))
    at_best, doubles = limits("cpu", torch.float32), limits("cpu", torch.float64)
    largest = "; ".join(f"{pair} {each:.1e}" for pair, each in far.items())
    write(
        options.output,
        "aggregate",
        [table(found, size, at_best, doubles)],
        command=options.command,
        notes=[
            at_best.describe(),
            doubles.describe(),
            f"{NOTE} Relative differences of a tensor, the largest: {largest}.",
        ],
        more={
            "costs": to_json(found),
            "differences": far,
            "limits": {each.dtype: asdict(each) for each in (at_best, doubles)},
        },
    )


if __name__ == "__main__":
    main()
