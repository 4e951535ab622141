"""`fedstrata compare`: runs beside each other, with means and deviations over seeds."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from fedstrata.comparison import tables
from fedstrata.comparison.files import (
    Comparison,
    compare,
    left_out_lines,
    part_title,
    to_json,
    to_plain,
    write_comparison,
)
from fedstrata.protocol.limits import printable
from fedstrata.runs.folder import find_run
from fedstrata.runs.results import FILE, read_results
from fedstrata.runs.sweep import find_sweep
from fedstrata.support.errors import UserError


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = argparse.ArgumentParser(
        prog="fedstrata compare",
        description="Compares runs: a row for what differs but for the seed, with mean and standard "
        "deviation over the seeds. It reads results.json of each run, and nothing else.",
    )
    made.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="a run's name, its folder, its results.json, or a sweep, which stands for its runs",
    )
    made.add_argument(
        "--runs-in",
        type=Path,
        metavar="FOLDER",
        help="where runs are looked for by name; by default ./outputs and fedstrata's home",
    )
    made.add_argument(
        "--target",
        action="append",
        metavar="[TASK=]VALUE",
        help="count the rounds until the leading measure is this good, such as 0.8 or gender=0.8",
    )
    made.add_argument(
        "--apart", action="store_true", help="of runs on other data, a table for each set of data"
    )
    made.add_argument(
        "--best-on-test",
        action="store_true",
        help="also the state that is best on test data, which is too good to be true",
    )
    made.add_argument("--json", action="store_true", help="print comparison.json instead")
    made.add_argument(
        "--output", type=Path, metavar="FOLDER", help="write comparison.md and comparison.json here"
    )
    return made


def main(arguments: Sequence[str]) -> None:
    """Print the comparison, and write it where asked to."""
    options = parser().parse_args(arguments)
    try:
        targets = read_targets(options.target) if options.target else None
        paths = [path for run in options.runs for path in paths_of(run, options.runs_in)]
        runs = [read_results(path) for path in dict.fromkeys(paths)]
        found = compare(runs, targets, apart=options.apart)
        if options.output:
            write_comparison(found, options.output, best_on_test=options.best_on_test)
    except UserError as error:
        sys.exit(f"fedstrata compare: {printable(str(error))}")
    if options.json:
        print(to_json(found), end="")
    else:
        _print(found, best_on_test=options.best_on_test)


def read_targets(words: Sequence[str]) -> dict[str, float]:
    """Return the targets in ``0.8`` and ``gender=0.8``; raise UserError for another word."""
    found = {}
    for word in words:
        task, _, value = word.rpartition("=")
        try:
            found[task] = float(value)
        except ValueError:
            raise UserError(
                f"--target {word}: write a number, as in --target 0.8 or --target gender=0.8"
            ) from None
    return found


def paths_of(run: str, folder: Path | None) -> list[Path]:
    """Return the runs that a word names: one, or those of a sweep that have results."""
    path = Path(run).expanduser()
    if path.is_file() or (path / FILE).is_file():
        return [path]
    if (sweep := find_sweep(run, folder)) is not None:
        found = [each for each in sweep.runs_there() if (each / FILE).is_file()]
        if not found:
            raise UserError(f"{sweep.path}: no run of the sweep has {FILE} yet")
        return found
    return [find_run(run, folder).path]


def _print(found: Comparison, *, best_on_test: bool) -> None:
    if not sys.stdout.isatty():
        print(to_plain(found, best_on_test=best_on_test))
        return
    from rich.console import Console

    console = Console(highlight=False)
    for number, part in enumerate(found.parts, start=1):
        if len(found.parts) > 1:
            console.print(part_title(number, part), style="bold", markup=False)
        tables.print_tables(console, part, best_on_test=best_on_test)
    for line in left_out_lines(found):
        console.print(printable(line), markup=False)
