"""The command line of a benchmark: what all of them have, and the command as results show it."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from benchmarks.flower.processes import REPOSITORY
from benchmarks.report.tables import UNCOMPILED, compiled
from fedstrata.support.home import home

DATA = "FEDSTRATA_DATA"  # names the folder of real data
WORK = (
    "folder of finished runs. A run is found again by its configuration, its number of sites, and "
    "name and size of the files that it reads, but not by the code. After a change of the code give "
    "another folder, or delete runs/ and central/ in this one"
)
PLACES = ("--work", "--output")
# An absolute path of at least two parts, but no word like "this/or/that" and no "a.b/c".
_PATH = re.compile(r"(?<![\w.])/(?:[^\s/\"',=\]]+/)+([^\s/\"',=\]]+)")


class Parser(argparse.ArgumentParser):
    """A parser whose options know where results go, and by which command they were made."""

    def parse(self, arguments: Sequence[str] | None = None) -> argparse.Namespace:
        """Return the options, with ``output`` an absolute folder and ``command`` for the results.

        ``arguments`` are those of this process when omitted.
        """
        given = list(sys.argv[1:] if arguments is None else arguments)
        options = self.parse_args(given)
        options.output = output_folder(options)
        options.command = shown_command(self.prog, given)
        return options


def make_parser(name: str, description: str | None, *, quick: str | None = None) -> Parser:
    """Return the parser of ``python -m benchmarks.<name>``, with ``--output``.

    Parameters
    ----------
    name : str
        The module in `benchmarks`.
    description : str or None
        For ``--help``: the docstring of the module.
    quick : str, optional
        What ``--quick`` does; without it there is no such option.
    """
    parser = Parser(prog=f"python -m benchmarks.{name}", description=description)
    if quick is not None:
        parser.add_argument("--quick", action="store_true", help=quick)
    with_quick = "; outputs/quick with --quick" if quick is not None else ""
    output_help = f"folder of the results (benchmarks/results{with_quick})"
    parser.add_argument("--output", type=_folder, help=output_help)
    return parser


def add_runs(parser: Parser) -> Parser:
    """Add the seeds, and the folder of finished runs."""
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--work", type=Path, default=home() / "benchmarks", help=WORK)
    return parser


def add_repeat(parser: Parser, default: int, of_what: str) -> Parser:
    """Add how often each case is measured."""
    parser.add_argument("--repeat", type=at_least(1), default=default, help=of_what)
    return parser


def add_data(parser: Parser, option: str, name: str, what: str) -> Parser:
    """Add ``option``, the path of data; when not given, ``name`` in the folder that `DATA` names."""
    folder = os.environ.get(DATA)
    parser.add_argument(
        option,
        type=Path,
        default=Path(folder) / name if folder else None,
        help=f"{what}; when omitted, {name} in ${DATA}",
    )
    return parser


def _folder(text: str) -> Path:
    """Return the path of a folder, which need not exist yet; no file may be in its way."""
    path = Path(text)
    if not next(each for each in (path, *path.absolute().parents) if each.exists()).is_dir():
        raise argparse.ArgumentTypeError(f"{path} is not a folder, nor can one be made there")
    return path


def at_least(least: int) -> Callable[[str], int]:
    """Return a reader of whole numbers from ``least`` on."""

    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} on")
        return int(text)

    return number


def check_compiled(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Exit with an error where starts are timed and every start would compile its imports."""
    if not (options.quick or compiled("torch")):
        parser.error(UNCOMPILED)


def check_data(
    parser: argparse.ArgumentParser, options: argparse.Namespace, needed: Iterable[str]
) -> None:
    """Exit with an error that names the first option of ``needed`` whose data does not exist."""
    for option in needed:
        path: Path | None = getattr(options, option.removeprefix("--"))
        if path is None:
            parser.error(f"{option} is needed: the path of its data; or set {DATA} to their folder")
        if not path.exists():
            parser.error(f"{option}: there is no {path}")


def output_folder(options: argparse.Namespace) -> Path:
    """Return the absolute folder of results; a quick look never writes beside the real ones."""
    if options.output is not None:
        return Path(options.output).resolve()
    quick = getattr(options, "quick", False)
    return REPOSITORY / ("outputs/quick" if quick else "benchmarks/results")


def shown_command(program: str, arguments: Sequence[str]) -> str:
    """Return the command as results show it: without the places of this machine."""
    kept: list[str] = []
    left = list(arguments)
    while left:
        word = left.pop(0)
        if word in PLACES:
            left = left[1:]
        elif not word.startswith(tuple(f"{place}=" for place in PLACES)):
            kept.append(word)
    return without_folders(f"{program} {shlex.join(kept)}".strip())


def without_folders(text: str) -> str:
    """Return ``text`` with each absolute path as ``/data/<name>``."""
    return _PATH.sub(r"/data/\1", text)
