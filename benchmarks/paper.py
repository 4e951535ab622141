"""The paper's experiments: `python -m benchmarks.paper --table 4 --har DATA`.

Multi-Task and Transfer Learning for Federated Learning Applications, tables III and IV. Finished runs
stay in --work and are not run again; tables, curves and JSON go to --output.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from benchmarks.flower.simulator import Simulator
from benchmarks.report.command_line import Parser, add_data, add_runs, check_data, make_parser

FACES = ("utkface", "drawn")
SPLITS = ("random", "blocks")


def parser() -> Parser:
    """Return the command line."""
    made = make_parser("paper", __doc__)
    made.add_argument("--table", choices=("3", "4"), required=True)
    rounds_help = "instead of the table's own number; for table 4, passes over the data"
    made.add_argument("--rounds", type=int, help=rounds_help)
    made.add_argument("--splits", choices=SPLITS, nargs="+", default=list(SPLITS))
    grid_help = "choose table 4's rates on this split; when omitted, on the one they are used on"
    made.add_argument("--grid-split", choices=SPLITS, help=grid_help)
    made.add_argument("--faces", choices=FACES, nargs="+", default=list(FACES))
    add_data(made, "--har", "har.npz", "UCI HAR, the official folder or one npz")
    add_data(made, "--utkface", "utkface_subset.zip", "UTKFace, a folder or a zip archive")
    add_data(made, "--weights", "squeezenet1_1_torchvision.npz", "ImageNet's SqueezeNet 1.1")
    return add_runs(made)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a table and write it."""
    options = parser().parse(arguments)
    pictures = ["--weights", *(["--utkface"] if "utkface" in options.faces else [])]
    check_data(parser(), options, ["--har"] if options.table == "4" else pictures)
    run = table3 if options.table == "3" else table4
    with Simulator(options.work.resolve()) as simulator:
        run(options, simulator)


def table3(options: argparse.Namespace, simulator: Simulator) -> None:
    """Run table III on drawn and on real faces."""
    from benchmarks.accuracy import prepare
    from benchmarks.accuracy.table3 import Table3, drawn, utkface

    for name in options.faces:
        if name == "utkface":
            root = prepare.utkface(options.utkface.resolve(), simulator.folder / "data")
            faces = utkface(root, options.rounds or 30)
        else:
            faces = drawn(options.rounds or 40)
        table = Table3(faces, options.weights.resolve(), tuple(options.seeds))
        table.run(simulator, options.output, options.command)


def table4(options: argparse.Namespace, simulator: Simulator) -> None:
    """Run table IV."""
    from benchmarks.accuracy.table4 import Table4

    table = Table4(options.har.resolve(), tuple(options.seeds), options.rounds or 150)
    splits, output = options.splits, options.output
    table.run(simulator, output, options.command, splits, options.grid_split)


if __name__ == "__main__":
    main()
