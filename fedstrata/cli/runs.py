"""`fedstrata runs`: lists runs, on this machine or of a SuperLink."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from fedstrata.protocol.limits import printable
from fedstrata.runs.folder import INTERRUPTED, RunView, default_folders, list_runs
from fedstrata.runs.standing import result_words
from fedstrata.support.errors import UserError

HEADINGS = ("run", "state", "rounds", "began", "result", "reason", "resume", "folder")


def main(arguments: Sequence[str]) -> None:
    """Print the list; end with 1 where a run's folder cannot be read."""
    options = parser().parse_args(arguments)
    try:
        if options.superlink:
            rows, errors = _of_superlink(options.superlink), list[str]()
        else:
            rows, errors = _of_folders(options.folder)
    except UserError as error:
        sys.exit(f"fedstrata runs: {error}")
    print(json.dumps(rows, indent=1) if options.json else _table(rows), end="\n")
    for error_line in errors:
        print(f"fedstrata runs: {printable(error_line)}", file=sys.stderr)
    sys.exit(1 if errors else 0)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(
        prog="fedstrata runs",
        description="Lists runs, the latest first: state, rounds, result and folder. Without a "
        "folder: those in ./outputs and in the home of fedstrata.",
    )
    made.add_argument("folder", nargs="?", type=Path, help="that holds runs (output-dir)")
    made.add_argument(
        "--superlink",
        metavar="CONNECTION",
        help="the runs of a SuperLink, by its name in Flower's configuration",
    )
    made.add_argument("--json", action="store_true", help="a list, for another program")
    return made


def _of_folders(folder: Path | None) -> tuple[list[dict[str, Any]], list[str]]:
    """Return a row for each run in folders, and why others cannot be read."""
    if folder is not None and not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder")
    found = list_runs(*(default_folders() if folder is None else [folder.absolute()]))
    rows = [_row(run) for run in found if isinstance(run, RunView)]
    return rows, [str(error) for error in found if isinstance(error, UserError)]


def _row(run: RunView) -> dict[str, Any]:
    over = not run.active and run.state != "complete"
    reason = "its process died" if run.state == INTERRUPTED else run.reason
    resume = resume_command(run.path) if over and (run.path / "run.json").exists() else ""
    began = time.strftime("%Y-%m-%d %H:%M", time.localtime(run.began))
    rounds = f"{run.round} of {run.rounds}" if run.rounds else "-"
    result = result_words(run)
    cells = (run.name, run.state, rounds, began, result, reason, resume, str(run.path))
    return dict(zip(HEADINGS, cells, strict=True))


def resume_command(path: Path) -> str:
    """Return the line that goes on with the run in a folder."""
    words = ["fedstrata", "run", "--resume", path.name]
    if path.parent not in default_folders():
        words.append(f"output-dir={path.parent}")
    return shlex.join(words)


def _of_superlink(connection: str) -> list[dict[str, Any]]:
    """Return a row for each run of a SuperLink, the latest first."""
    from consortium.superlink import SuperLink

    superlink = SuperLink(connection)
    rows = []
    for run in reversed(superlink.runs()):
        found = superlink.outcome(run)
        place = f" in {found.folder}" if found.folder else ""
        name, where = run.name or str(run.id), f"run {run.id} of {connection}{place}"
        cells = (name, run.status, str(found.round), "-", found.result, run.details, "", where)
        rows.append(dict(zip(HEADINGS, cells, strict=True)))
    return rows


def _table(rows: Iterable[dict[str, Any]]) -> str:
    """Return rows as lines: the columns that are short side by side, what is long below."""
    lines = []
    for row in rows:
        lines.append(f"{row['run']}  {row['state']}  rounds {row['rounds']}  {row['began']}")
        lines += [f"    {row[key]}" for key in ("result", "reason", "resume", "folder") if row[key]]
    return "\n".join(map(printable, lines)) or "there is no run yet; start one with `fedstrata run`"
