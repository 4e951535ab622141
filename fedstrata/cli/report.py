"""`fedstrata report`: the page of a run, or of several compared."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from fedstrata.report import FILE, write_report
from fedstrata.runs.folder import find_run
from fedstrata.runs.results import FILE as RESULTS
from fedstrata.support.errors import UserError


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = argparse.ArgumentParser(
        prog="fedstrata report",
        description="Writes one HTML page of a run, or of several compared. It needs nothing else.",
    )
    made.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="a run's name, its folder, its results.json, or latest",
    )
    made.add_argument(
        "--runs-in",
        type=Path,
        metavar="FOLDER",
        help="where runs are looked for by name; by default ./outputs and fedstrata's home",
    )
    made.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help=f"the page; by default {FILE} in the run's folder, comparison.html here for several",
    )
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the page and say where it is."""
    options = parser().parse_args(arguments)
    try:
        paths = [_path_of(run, options.runs_in) for run in options.runs]
        output = options.output or _place(paths)
        write_report(paths, output)
    except UserError as error:
        sys.exit(f"fedstrata report: {error}")
    print(output)


def _path_of(run: str, folder: Path | None) -> Path:
    path = Path(run).expanduser()
    if path.is_file() or (path / RESULTS).is_file():
        return path
    return find_run(run, folder).path


def _place(paths: Sequence[Path]) -> Path:
    if len(paths) > 1:
        return Path("comparison.html")
    return (paths[0] if paths[0].is_dir() else paths[0].parent) / FILE
