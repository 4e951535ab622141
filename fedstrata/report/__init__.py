"""The report of a run: one HTML page to look at, print and hand on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedstrata.support.errors import UserError

FILE = "report.html"


def write_report(runs: Sequence[Path], path: Path) -> None:
    """Write the report of one run, or the comparison of several.

    Parameters
    ----------
    runs : sequence of Path
        Folders of runs, or their results.json.
    path : Path
        The page; it is complete under its name, or not there at all.

    Raises
    ------
    UserError
        A run cannot be read, or the page cannot be written.
    """
    # Late: whoever imports this package need not wait for the templates.
    from fedstrata.report.page import MOST_RUNS, report_page
    from fedstrata.runs.results import read_results
    from fedstrata.support.durable import replacing_private

    if not runs or len(runs) > MOST_RUNS:
        raise UserError(f"a report is of 1 to {MOST_RUNS} runs, and these are {len(runs)}")
    page = report_page([read_results(run) for run in runs])
    try:
        with replacing_private(path) as unfinished:
            unfinished.write_text(page, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from None
