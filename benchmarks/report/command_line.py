"""What the command lines of the benchmarks have in common."""

from __future__ import annotations

import argparse
import os
import re
import shlex
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from benchmarks.flower.processes import REPOSITORY
from benchmarks.report.tables import UNCOMPILED, compiled
from fedstrata.support.home import home

DATA = "FEDSTRATA_DATA"  # names the folder of real data
WORK = (
    "finished runs are kept here, and are found again by their configuration, their number of sites, "
    "and name and size of the files that they read. A change of the code runs nothing again: give "
    "another folder, or delete runs/ and central/ in this one"
)
PLACES = ("--work", "--output")
_PATH = re.compile(r"(?<![\w.])/(?:[^\s/\"',=\]]+/)+([^\s/\"',=\]]+)")


def with_places(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the seeds, the folder of runs, and the folder of results."""
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--work", type=Path, default=home() / "benchmarks", help=WORK)
    return with_output(parser)


def with_output(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the folder of results."""
    told = "folder of the results (benchmarks/results; outputs/quick with --quick)"
    parser.add_argument("--output", type=_folder, help=told)
    return parser


def _folder(told: str) -> Path:
    """Return the path of a folder, which need not be there yet; no file may be in its way."""
    path = Path(told)
    if not next(each for each in (path, *path.absolute().parents) if each.exists()).is_dir():
        raise argparse.ArgumentTypeError(f"{path} is not a folder, nor can one be made there")
    return path


def at_least(least: int) -> Callable[[str], int]:
    """Return what reads a whole number from ``least`` on."""

    def number(told: str) -> int:
        if not told.isdecimal() or int(told) < least:
            raise argparse.ArgumentTypeError(f"{told!r} is not a whole number from {least} on")
        return int(told)

    return number


def check_compiled(parser: argparse.ArgumentParser, told: argparse.Namespace) -> None:
    """Leave with an error where starts are to be timed, and each would compile what it imports."""
    if not (told.quick or compiled("torch")):
        parser.error(UNCOMPILED)


def output_of(told: argparse.Namespace) -> Path:
    """Return the absolute folder of results; those of a quick look are not kept with the others."""
    if told.output is not None:
        return Path(told.output).resolve()
    quick = getattr(told, "quick", False)
    return REPOSITORY / ("outputs/quick" if quick else "benchmarks/results")


def with_data(
    parser: argparse.ArgumentParser, option: str, name: str, what: str
) -> argparse.ArgumentParser:
    """Add ``option``, the path of data; where `DATA` is set, that folder's ``name`` when not given."""
    folder = os.environ.get(DATA)
    parser.add_argument(
        option,
        type=Path,
        default=Path(folder) / name if folder else None,
        help=f"{what}; when omitted, {name} in ${DATA}",
    )
    return parser


def check_data(
    parser: argparse.ArgumentParser, told: argparse.Namespace, options: Iterable[str]
) -> None:
    """Leave with an error that names the first of ``options`` whose data is nowhere."""
    for option in options:
        path: Path | None = getattr(told, option.removeprefix("--"))
        if path is None:
            parser.error(f"{option} is needed: the path of its data; or set {DATA} to their folder")
        if not path.exists():
            parser.error(f"{option}: there is no {path}")


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
