"""What the command lines of the benchmarks have in common."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from benchmarks.processes import REPOSITORY
from models.home import home

DATA = REPOSITORY.parent / "shared" / "data"  # where real data lie beside a checkout, if they do
PLACES = ("--work", "--output")
_PATH = re.compile(r"(?<![\w.])/(?:[^\s/\"',=\]]+/)+([^\s/\"',=\]]+)")


def with_places(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the seeds, the folder of runs, and the folder of results."""
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument(
        "--work", type=Path, default=home() / "benchmarks", help="runs are kept here"
    )
    parser.add_argument("--output", type=Path, default=REPOSITORY / "benchmarks" / "results")
    return parser


def command_of(module: str, arguments: Sequence[str]) -> str:
    """Return the command as results tell it: without where this machine keeps things."""
    kept: list[str] = []
    left = list(arguments)
    while left:
        word = left.pop(0)
        if word in PLACES:
            left = left[1:]
        elif not word.startswith(tuple(f"{place}=" for place in PLACES)):
            kept.append(word)
    return anywhere(f"python -m {module} {shlex.join(kept)}".strip())


def anywhere(text: str) -> str:
    """Return ``text`` with each absolute path as ``/data/<name>``."""
    return _PATH.sub(r"/data/\1", text)
