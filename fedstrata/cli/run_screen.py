"""A run in the terminal: a view that changes in its place, or plain lines where there is none."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from fedstrata.protocol.limits import printable
from fedstrata.protocol.progress import SiteProgress
from fedstrata.runs.folder import RunView, read_run
from fedstrata.runs.standing import (
    BARS,
    PLAIN_BARS,
    alone_of,
    duration_words,
    missing_sites,
    sites_line,
    size_words,
    tasks_of,
    trend,
)
from fedstrata.support.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table
    from rich.text import Text

STYLES = {
    "trained": "green",
    "answered": "green",
    "working": "cyan",
    "waiting": "dim",
    "late": "yellow",
    "refused": "red",
    "absent": "magenta",
    "closed": "blue",
    "waiting for approval": "blue",
}
MOST_NAMED = 8  # missing sites that are named in the view
MOST_SQUARES = 200
COST = 20  # a look waits so many times as long as the last one took: at most 5 % of a core


class Screen:
    """Plain lines: what the run says, and nothing else.

    Parameters
    ----------
    out, errors : TextIO or None
        Where lines go; None for those of this process.
    """

    def __init__(self, out: TextIO | None = None, errors: TextIO | None = None) -> None:
        self._out, self._errors = out or sys.stdout, errors or sys.stderr

    def __enter__(self) -> Screen:
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the terminal as it was."""

    def say(self, line: str) -> None:
        """Print a line of the run."""
        print(line, file=self._out, flush=True)

    def error(self, text: str) -> None:
        """Print what is wrong, or what to do next."""
        print(text, file=self._errors, flush=True)

    def show(self, folder: Path | None) -> None:
        """Show how the run in a folder stands; plain lines say so by themselves."""


class LiveScreen(Screen):
    """The run's view at the bottom of a terminal, and what it says above."""

    def __init__(self, console: Console) -> None:
        from rich.live import Live

        super().__init__()
        self._console = console
        self._live = Live(console=console, refresh_per_second=4, transient=True)
        self._within = False
        self._next_look = 0.0

    def __enter__(self) -> LiveScreen:
        self._live.start()
        self._within = True
        return self

    def __exit__(self, *_: object) -> None:
        self._within = False
        self._live.stop()

    def say(self, line: str) -> None:
        """Print a line above the view, which itself says how each round went."""
        if not (self._within and line.startswith("round ")):
            self._console.print(line, markup=False, emoji=False, highlight=False, soft_wrap=True)

    def error(self, text: str) -> None:
        """Print a text above the view, in the color of errors."""
        self._console.print(
            text, style="red", markup=False, emoji=False, highlight=False, soft_wrap=True
        )

    def show(self, folder: Path | None) -> None:
        """Read the run's folder and change the view; seldom, where results.json is large."""
        began = time.monotonic()
        if folder is None or began < self._next_look:
            return
        with contextlib.suppress(UserError):  # between two files that are written, or gone
            self._live.update(view(read_run(folder), utf8=self._console.encoding == "utf-8"))
        ended = time.monotonic()
        self._next_look = ended + COST * (ended - began)


def make_screen() -> Screen:
    """Return the screen for the terminal, file or pipe to which this process writes."""
    if not sys.stdout.isatty():
        return Screen()
    from rich.console import Console

    console = Console()
    return LiveScreen(console) if console.is_terminal and not console.is_dumb_terminal else Screen()


def view(run: RunView, *, utf8: bool = True, now: float | None = None) -> RenderableType:
    """Return a run as it is shown: the round, the tasks, the sites, the bytes."""
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = [_head(run, time.time() if now is None else now)]
    if tasks_of(run.results):
        parts.append(_tasks_table(run, BARS if utf8 else PLAIN_BARS))
    if run.progress is not None and run.progress.sites:
        parts.append(_squares(run.progress.sites, "●" if utf8 else "o"))
        parts.append(Text(f"sites: {sites_line(run)}"))
        missing = missing_sites(run)
        more = len(missing) - MOST_NAMED
        shown = missing[:MOST_NAMED] + ([f"and {more} more"] if more > 0 else [])
        parts += [Text(f"  {printable(line)}", style="yellow") for line in shown]
    return Group(*parts)


def head_words(run: RunView, now: float) -> str:
    """Return the first line: which run, what it does, how long yet, how many bytes."""
    progress = run.progress
    parts = [f"{run.name}: {run.state}"]
    if run.rounds:
        parts.append(f"round {max(run.round, progress.round if progress else 0)} of {run.rounds}")
    if progress is not None:
        since = (now if run.active else progress.updated) - progress.began
        parts.append(f"{duration_words(max(since, 0))} so far")
        if progress.seconds_left is not None:
            left = progress.seconds_left - (now - progress.updated)
            parts.append(f"about {duration_words(max(left, 0))} left")
        down, up = size_words(progress.bytes_down), size_words(progress.bytes_up)
        parts.append(f"{down} down, {up} up")
    text = ", ".join(parts)
    return printable(f"{text} ({run.reason})" if run.reason else text)


def _head(run: RunView, now: float) -> Text:
    from rich.text import Text

    return Text(head_words(run, now), style="bold")


def _tasks_table(run: RunView, bars: str) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("task", "measure", "now", "trend", "over alone", "worst site"):
        table.add_column(heading, justify="right" if heading in ("now", "over alone") else "left")
    for each in tasks_of(run.results, alone_of(run)):
        cells = (
            each.task,
            each.measure,
            each.value,
            trend(each.values, bars),
            each.gain,
            each.worst,
        )
        table.add_row(*(Text(printable(cell)) for cell in cells))
    return table


def _squares(sites: dict[str, SiteProgress], mark: str) -> Text:
    from rich.text import Text

    text = Text()
    shown: Sequence[str] = sorted(sites)[:MOST_SQUARES]
    for name in shown:
        text.append(mark, style=STYLES[sites[name].state])
    if len(sites) > len(shown):
        text.append(f" and {len(sites) - len(shown)} more")
    return text
