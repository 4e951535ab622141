"""Fine-tuning at one site over a frozen backbone: `python -m benchmarks.local`.

As the usual tutorial loop writes it (every batch through the whole network, every epoch) and ours,
which runs the frozen layers once and keeps their outputs. Ours has an empty cache or a full one in
float16, as by default, or an empty one in float32. Beside them stand loops that a skilled user writes
over the outputs of the frozen layers: plain, with a DataLoader, with Lightning where it is installed
(benchmarks/requirements-lightning.txt). Each runs in a fresh process, in turn, from the same start, over
the same batches (Lightning over batches of its own). The trained layers of the tutorial loop, the plain
loop and float32 are compared.

On a GPU (`--device cuda`) ours computes as a site does there: in bfloat16, its convolutions with channels
last, on examples that stay in the GPU's memory. The float32 column does all of that but bfloat16.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.measure.feature_loops import has_lightning
from benchmarks.measure.fine_tuning import (
    COLD,
    CONFIG,
    EXACT,
    KEPT,
    LIGHTNING,
    LOADER,
    PLAIN,
    SIDES,
    TUTORIAL,
    WARM,
    Case,
    Cost,
    fine_tune,
    site_of,
)
from benchmarks.measure.fresh_process import in_fresh_process, largest_difference
from benchmarks.measure.limits import Limits, limits, operations
from benchmarks.measure.turns import in_turn, median_of, medians
from benchmarks.report.command_line import add_repeat, at_least, make_parser
from benchmarks.report.tables import Table, write
from models.freezing import split_at

PRELOAD = ("benchmarks.measure.fine_tuning", "torchvision")
# Of the norm of a tensor. Batches of another size round differently, and a GPU's convolutions use
# numbers with 10 bits after the point (TF32).
TOLERANCE = {"cpu": 1e-4, "cuda": 2e-2}
SHOWN = (TUTORIAL, EXACT, COLD, WARM)  # in the first table


def least_operations(case: Case) -> float:
    """Return the floating point operations that cannot be left out.

    One pass of each picture through the frozen layers, and for each step forward and backward
    through the trained ones.
    """
    site = site_of(replace(case, images=2))
    prefix, tail = split_at(site.network, site.cut)
    inputs = site.data.inputs.batch(np.arange(2))
    with torch.no_grad():
        once = operations(lambda: prefix(inputs))
        features = prefix(inputs)
    again = operations(lambda: tail(features).sum().backward())
    return case.images / 2 * (once + case.epochs * case.rounds * again)


def table(found: Mapping[Case, Mapping[str, Sequence[Cost]]], at_best: Limits) -> Table:
    """Return medians, ratios and limits."""
    made = Table(
        "Fine-tuning over a frozen backbone",
        (
            "network, pictures, trained",
            "tutorial, s",
            "empty cache in float32, s",
            "empty cache, s",
            "full cache, s",
            "tutorial / empty",
            "at best, s",
            "empty / at best",
            "memory: tutorial, float32, empty, full",
        ),
    )
    for case, sides in found.items():
        seconds = medians(sides, lambda cost: cost.seconds)
        memory = (median_of(sides[side], lambda cost: cost.memory) for side in SHOWN)
        least = least_operations(case) / at_best.product
        made.rows[case.name] = (
            *(f"{seconds[side]:.2f}" for side in SHOWN),
            f"{seconds[TUTORIAL] / seconds[COLD]:.1f}",
            f"{least:.2f}",
            f"{seconds[COLD] / least:.1f}",
            ", ".join(f"{each / 1e6:.0f}" for each in memory) + " MB",
        )
    return made


def loops_table(found: Mapping[Case, Mapping[str, Sequence[Cost]]], *, on_cpu: bool) -> Table:
    """Return the medians of ours beside those of loops over the frozen layers' outputs.

    Seconds of processors, which other work on the machine changes least; on a GPU seconds.
    """
    made = Table(
        "Beside loops over the outputs of the frozen layers, "
        + ("seconds of processors" if on_cpu else "seconds"),
        (
            "network, pictures, trained",
            "plain loop",
            "DataLoader",
            "Lightning",
            "ours, empty cache",
            "ours / plain loop",
            "plain loop, outputs kept",
            "ours, full cache",
            "ours / plain loop, kept",
        ),
    )
    for case, sides in found.items():
        took = medians(sides, lambda cost: cost.processor if on_cpu else cost.seconds)
        made.rows[case.name] = (
            f"{took[PLAIN]:.2f}",
            f"{took[LOADER]:.2f}",
            f"{took[LIGHTNING]:.2f}" if LIGHTNING in took else "not installed",
            f"{took[COLD]:.2f}",
            f"{took[COLD] / took[PLAIN]:.2f}",
            f"{took[KEPT]:.2f}",
            f"{took[WARM]:.2f}",
            f"{took[WARM] / took[KEPT]:.2f}",
        )
    return made


def cases_of(options: argparse.Namespace) -> list[Case]:
    """Return what the command line asks to fine-tune."""
    if options.quick:
        return [Case("resnet18", 64, trained, 64, 2, 2) for trained in ("head", "last stage")]
    kinds = [("resnet18", 224), ("vgg16", 224), ("resnet18", 64)]
    cases = [
        Case(network, size, trained, options.images, options.epochs, options.rounds)
        for network, size in kinds
        for trained in ("head", "last stage")
    ]
    return [case for case in cases if all(text in case.name for text in options.only)]


def measure(
    case: Case, sides: Sequence[str], repeat: int, device: torch.device, folder: Path
) -> dict[str, list[Cost]]:
    """Measure a case on ``sides``, in turn; each leaves its trained layers in ``folder``."""
    folder.mkdir()

    def once(side: str, number: int) -> Cost:
        # The same folder for all sides: the full cache is what the empty one left.
        cache = folder / f"cache-{number}"
        cost = in_fresh_process(PRELOAD, fine_tune, case, side, cache, folder / side, str(device))
        print(case.name, side, f"{cost.seconds:.2f} s", flush=True)
        return cost

    return in_turn(sides, repeat, once)


def difference(case: Case, device: torch.device, folder: Path) -> float:
    """Return how far float32 is from the loops at most; exit where that is more than rounding."""
    loops = [side for side in (TUTORIAL, PLAIN) if (folder / side).exists()]
    found = max(largest_difference(folder / EXACT, folder / side) for side in loops)
    if not found <= TOLERANCE[device.type]:
        raise SystemExit(f"{case.name}: {EXACT} differs by {found:g}")
    return found


def notes(
    options: argparse.Namespace, device: torch.device, at_best: Limits, largest: float
) -> list[str]:
    """Return what the reader of the table must know; ``largest`` is the largest difference."""
    work = (
        f"{options.epochs} epochs in each of {options.rounds} rounds on {options.images} pictures, "
        f"batches of {CONFIG.batch_size}."
    )
    if options.quick:
        work = "Two epochs in each of two rounds on 64 pictures: too little for a figure."
    memory = "what is added"
    if device.type != "cpu":
        memory = f"what {torch.cuda.get_device_name(device)} allocated"
    return [
        at_best.describe(),
        work,
        "Lightning shuffles by itself; the others have the same batches. The time of loops over the "
        "outputs of the frozen layers has the computing of these outputs in it, unless they were "
        "kept. Ours has the frozen layers' hash in it, once in a process.",
        f"Medians, in a process that has the model and the pictures; memory is {memory}. "
        "At best: one pass of each picture through the frozen layers and the steps of the "
        "trained ones, at the rate of a large matrix product. The trained layers of the loops "
        f"and of float32 differ by at most {largest:.1e} of a tensor's norm.",
    ]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = make_parser("local", __doc__, quick="one small network, once")
    images_help = "training pictures of the site"
    parser.add_argument("--images", type=at_least(1), default=256, help=images_help)
    parser.add_argument("--epochs", type=at_least(1), default=5, help="of a round")
    parser.add_argument("--rounds", type=at_least(1), default=10)
    add_repeat(parser, 3, "of each case on each side, in turn")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--loops", action="store_true", help="without the tutorial loop")
    only_help = "rows whose names have all of these words, such as resnet18 head"
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD", help=only_help)
    return parser.parse(arguments)


def sides_of(options: argparse.Namespace) -> list[str]:
    """Return what is played: without the tutorial loop if asked, and Lightning where it is."""
    left_out = {TUTORIAL} if options.loops else set()
    if not has_lightning():
        left_out.add(LIGHTNING)
    return [side for side in SIDES if side not in left_out]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the cases, compare what was learned, and write the tables, each into its own file."""
    options = parse(arguments)
    device, sides = torch.device(options.device), sides_of(options)
    found: dict[Case, dict[str, list[Cost]]] = {}
    differences: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        for number, case in enumerate(cases_of(options)):
            folder = Path(name) / str(number)
            repeat = 1 if options.quick else options.repeat
            found[case] = measure(case, sides, repeat, device, folder)
            differences[case.name] = difference(case, device, folder)
    on_cpu = device.type == "cpu"
    at_best = limits(options.device, torch.float32 if on_cpu else torch.bfloat16)
    tables = {"local-loops": loops_table(found, on_cpu=on_cpu)}
    if not options.loops:
        tables["local"] = table(found, at_best)
    for name, made in tables.items():
        write(
            options.output,
            name if on_cpu else f"{name}-gpu",
            [made],
            command=options.command,
            notes=notes(options, device, at_best, max(differences.values())),
            more={
                "costs": [
                    {**asdict(case), "side": side, **asdict(cost)}
                    for case, costs_of in found.items()
                    for side, costs in costs_of.items()
                    for cost in costs
                ],
                "differences": differences,
                "limits": asdict(at_best),
            },
        )


if __name__ == "__main__":
    main()
