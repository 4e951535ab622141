"""What the command lines of the benchmarks have in common."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.flower import REPOSITORY
from models.home import home

DATA = REPOSITORY.parent / "shared" / "data"  # where real data lie beside a checkout, if they do


def with_places(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the seeds, the folder of runs, and the folder of results."""
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument(
        "--work", type=Path, default=home() / "benchmarks", help="runs are kept here"
    )
    parser.add_argument("--output", type=Path, default=REPOSITORY / "benchmarks" / "results")
    return parser
