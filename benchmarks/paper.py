"""The paper's experiments: `python -m benchmarks.paper --table 4 --har DATA`.

Multi-Task and Transfer Learning for Federated Learning Applications, tables III and IV. Runs that
are finished are kept in --work and not run again; tables, curves and JSON go to --output.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from benchmarks.flower.simulator import Simulator
from benchmarks.report.command_line import check_data, command_of, output_of, with_data, with_places

FACES = ("utkface", "drawn")


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.paper", description=__doc__)
    made.add_argument("--table", choices=("3", "4"), required=True)
    made.add_argument(
        "--rounds",
        type=int,
        help="instead of the table's own number; passes over the data for table 4",
    )
    made.add_argument(
        "--splits", choices=("random", "blocks"), nargs="+", default=["random", "blocks"]
    )
    made.add_argument(
        "--grid-split",
        choices=("random", "blocks"),
        help="choose table 4's rates on this split; when omitted, on the very one they are used on",
    )
    made.add_argument("--faces", choices=FACES, nargs="+", default=list(FACES))
    with_data(made, "--har", "har.npz", "UCI HAR, the official folder or one npz")
    with_data(made, "--utkface", "utkface_subset.zip", "UTKFace, a folder or a zip archive")
    with_data(made, "--weights", "squeezenet1_1_torchvision.npz", "ImageNet's SqueezeNet 1.1")
    return with_places(made)


def main(arguments: Sequence[str] | None = None) -> None:
    """Play a table and write it."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    told = parser().parse_args(given)
    real = ["--weights", *(["--utkface"] if "utkface" in told.faces else [])]
    check_data(parser(), told, ["--har"] if told.table == "4" else real)
    command = command_of("benchmarks.paper", given)
    with Simulator(told.work.resolve()) as simulator:
        play = table3 if told.table == "3" else table4
        play(told, simulator, command)


def table3(told: argparse.Namespace, simulator: Simulator, command: str) -> None:
    """Play table III on drawn and on real faces."""
    from benchmarks.accuracy import prepare
    from benchmarks.accuracy.table3 import Table3, drawn, utkface

    for name in told.faces:
        if name == "utkface":
            root = prepare.utkface(told.utkface.resolve(), simulator.folder / "data")
            faces = utkface(root, told.rounds or 30)
        else:
            faces = drawn(told.rounds or 40)
        table = Table3(faces, told.weights.resolve(), tuple(told.seeds))
        table.run(simulator, output_of(told), command)


def table4(told: argparse.Namespace, simulator: Simulator, command: str) -> None:
    """Play table IV."""
    from benchmarks.accuracy.table4 import Table4

    table = Table4(told.har.resolve(), tuple(told.seeds), told.rounds or 150)
    table.run(simulator, output_of(told), command, told.splits, told.grid_split)


if __name__ == "__main__":
    main()
