"""How fast a server folds replies, and in how much memory: `python -m benchmarks.aggregate`.

Replies of a ResNet-18 (45 MB) in two groups, ours and Flower's own strategy in turn, each in a fresh
process: 10, 100 and 1,000 for the mean, 10 and 100 for median, trimmed mean and Krum. Replies are made
one at a time. Seconds are from a reply's bytes to the new state, without the making of the replies
and without the network; memory is what is added to a process that has the model.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks.measure.aggregation import (
    FLOWER,
    OURS,
    RULES,
    SIDES,
    Case,
    Cost,
    model,
    play,
    write_mean,
)
from benchmarks.measure.fresh_process import apart, largest_difference
from benchmarks.measure.limits import Limits, limits
from benchmarks.report.command_line import at_least, command_of, output_of, with_output
from benchmarks.report.tables import Table, write

COUNTS = (10, 100, 1000)
ROBUST_COUNTS = (10, 100)
QUICK_COUNTS = (5,)
PER_REPLY = 5  # times its bytes: read once, and twice as wide a sum read and written
TOLERANCE = 1e-6
EXACT = "the mean in float64"
ROUNDING = 1e-4
"""What float32 sums of many replies, as Flower's are, may lie from their mean."""
PRELOAD = ("benchmarks.measure.aggregation", "torchvision")
FREE = 0.7  # share of the free memory that Flower's replies may take


def least_seconds(rule: str, count: int, size: int, at_best: Limits, doubles: Limits) -> float:
    """Return what no program could be faster than, of the bytes to move and Krum's products.

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
    told = dict(
        line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines() if ":" in line
    )
    return count * size < FREE * 1024 * int(told["MemAvailable"].split()[0])


def table(
    found: Mapping[tuple[str, int, float | None], Mapping[str, list[Cost]]],
    size: int,
    at_best: Limits,
    doubles: Limits,
) -> Table:
    """Return medians, the ratio and the limit of every rule and number of replies.

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
    for (rule, count, memory), sides in found.items():
        ours = statistics.median(cost.total for cost in sides[OURS])
        theirs = statistics.median([cost.total for cost in sides[FLOWER]] or [float("nan")])
        least = least_seconds(rule, count, size, at_best, doubles)
        name = f"{rule}, {count}" + (f", within {memory:g} MB a group" if memory else "")
        made.rows[name] = (
            f"{ours:.2f}",
            f"{theirs:.2f}" if sides[FLOWER] else f"needs {count * size / 1e9:.0f} GB",
            f"{theirs / ours:.1f}" if sides[FLOWER] else "-",
            f"{least:.2f}",
            f"{ours / least:.1f}",
            _memory(sides[OURS], size),
            _memory(sides[FLOWER], size) if sides[FLOWER] else "-",
        )
    return made


def _memory(costs: Sequence[Cost], size: int) -> str:
    taken = statistics.median(cost.memory for cost in costs)
    return f"{taken / 1e6:.0f} MB, {taken / size:.1f} models"


def main(arguments: Sequence[str] | None = None) -> None:
    """Play the cases in turn, compare what came out, and write the table."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="python -m benchmarks.aggregate", description=__doc__)
    repeat_told = "of each case on each side, in turn"
    parser.add_argument("--repeat", type=at_least(1), default=5, help=repeat_told)
    parser.add_argument("--rules", nargs="+", choices=RULES, default=list(RULES))
    parser.add_argument(
        "--counts", type=at_least(1), nargs="+", help="replies, instead of the usual"
    )
    parser.add_argument(
        "--memory-mb", type=float, help="for the rules that need all replies, as in conf/"
    )
    parser.add_argument("--network", default="resnet18", help="whose layers the replies are")
    parser.add_argument("--quick", action="store_true", help="5 replies, once")
    told = with_output(parser).parse_args(given)
    found: dict[tuple[str, int, float | None], dict[str, list[Cost]]] = {}
    differences: dict[str, float] = {}
    state = model(told.network)
    size = sum(tensor.nbytes for tensor in state.values())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for rule in told.rules:
            counts = COUNTS if rule == "fedavg" else ROBUST_COUNTS
            for count in told.counts or (QUICK_COUNTS if told.quick else counts):
                memory = told.memory_mb if rule != "fedavg" else None
                key = rule, count, memory
                found[key] = {side: [] for side in SIDES}
                for _ in range(1 if told.quick else told.repeat):
                    for side in SIDES:
                        if side == FLOWER and not room_for_flower(count, size):
                            continue
                        case = Case(rule, count, side, told.network, memory)
                        cost = apart(PRELOAD, play, case, folder / side)
                        found[key][side].append(cost)
                        processor = sum(cost.processor.values())
                        line = f"{cost.total:.2f} s, {processor:.2f} s of processors"
                        print(rule, count, side, line, flush=True)
                sides = [side for side in SIDES if found[key][side]]
                other = OURS
                if rule == "fedavg":
                    other = EXACT
                    apart(PRELOAD, write_mean, told.network, count, folder / other)
                for side in sides:
                    if side == other:
                        continue
                    difference = largest_difference(folder / side, folder / other)
                    differences[f"{rule}, {count}: {side} and {other}"] = difference
                    if difference > (ROUNDING if (side, other) == (FLOWER, EXACT) else TOLERANCE):
                        raise SystemExit(
                            f"{rule}, {count}: {side} and {other} differ by {difference:g}"
                        )
    at_best, doubles = limits("cpu", torch.float32), limits("cpu", torch.float64)
    notes = [
        at_best.told(),
        doubles.told(),
        "Medians. Ours: from a reply's bytes through the checks to the new state of both groups. "
        "Flower: from its replies, all of them in memory, to the new arrays, as bytes to be sent. "
        "Memory: the most that is added to a process that has the model; ours has one reply as bytes "
        "in it. At best: the bytes that must be moved, at the rate of a large copy, or for Krum the "
        "inner products at that of a large matrix product. "
        "Relative differences of a tensor, the largest: "
        + "; ".join(f"{which} {each:.1e}" for which, each in differences.items())
        + ".",
    ]
    more = {
        "costs": [
            {
                "rule": rule,
                "replies": count,
                "memory_mb": memory,
                "side": side,
                "seconds": [cost.seconds for cost in costs],
                "processor": [cost.processor for cost in costs],
                "memory": [cost.memory for cost in costs],
            }
            for (rule, count, memory), sides in found.items()
            for side, costs in sides.items()
        ],
        "differences": differences,
        "limits": {each.dtype: asdict(each) for each in (at_best, doubles)},
    }
    command = command_of("benchmarks.aggregate", given)
    output = output_of(told)
    made = table(found, size, at_best, doubles)
    write(output, "aggregate", [made], command=command, notes=notes, more=more)


if __name__ == "__main__":
    main()
