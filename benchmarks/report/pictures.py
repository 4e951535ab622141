"""Pictures of results: curves per round, and the data of each site."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.report.outcome import IN_UNITS
from fedstrata.protocol.measure_words import WORDS
from models.training.data import SiteData

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

MOST_SITES = 40  # beside one another in a picture


def draw_curves(
    path: Path,
    title: str,
    lines: Mapping[str, Sequence[Sequence[float]]],
    *,
    levels: Mapping[str, float] | None = None,
    lowest: float | None = None,
    passes: int | None = None,
    measure: str = "accuracy",
    unit: str = "",
) -> None:
    """Draw the mean of the leading measure against rounds, with a band of one standard deviation.

    Parameters
    ----------
    path : Path
        A PNG.
    title : str
        Above the picture.
    lines : mapping
        Name to one curve per seed, shares in [0, 1], or errors in their own unit, from round 1 on.
    levels : mapping, optional
        Name to a value that is drawn as a dashed line, such as the majority class.
    lowest : float, optional
        Where the vertical axis begins; chosen by the data when omitted.
    passes : int, optional
        Passes over the data that every curve makes in its rounds; they are the horizontal axis then.
    measure : str
        The leading measure of the tasks' kind.
    unit : str
        Of an error.
    """
    in_units = measure in IN_UNITS
    scale = 1 if in_units else 100
    canvas, (axes,) = _canvas(10.0, 4.5)
    for name, seeds in lines.items():
        values = scale * np.asarray(seeds)
        rounds = np.arange(1, values.shape[1] + 1)
        if passes is not None:
            rounds = rounds * passes / values.shape[1]
        mean = values.mean(axis=0)
        (line,) = axes.plot(rounds, mean, label=name, linewidth=1.6)
        if len(values) > 1:
            deviation = values.std(axis=0, ddof=1)
            axes.fill_between(
                rounds, mean - deviation, mean + deviation, color=line.get_color(), alpha=0.12
            )
    for name, level in (levels or {}).items():
        axes.axhline(scale * level, linestyle="--", linewidth=1, color="grey")
        axes.annotate(name, (0.01, scale * level), xycoords=("axes fraction", "data"), va="bottom")
    below = "round" if passes is None else "passes over the training data"
    above = f"{WORDS[measure]} on the test data, {unit if in_units else '%'}".rstrip(", ")
    axes.set(title=fill(title, 60), xlabel=below, ylabel=above)
    if lowest is not None:
        axes.set_ylim(bottom=scale * lowest)
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0, fontsize=8)
    _save(canvas, path)


def draw_sites(path: Path, title: str, sites: Sequence[SiteData]) -> None:
    """Draw each site's training examples as a bar, stacked by class, one panel per task."""
    tasks: dict[str, list[SiteData]] = {}
    for data in sites:
        tasks.setdefault(data.task, []).append(data)
    shown = list(tasks.items())
    if len(shown) > 6:  # such as one task per subject: all sites in one panel
        shown = [("all tasks", list(sites))]
    canvas, panels = _panels(len(shown))
    for axes, (task, members) in zip(panels, shown, strict=True):
        members = members[:MOST_SITES]
        classes = members[0].classes
        counts = np.stack([np.bincount(m.train.labels, minlength=len(classes)) for m in members])
        below = np.zeros(len(members))
        for number, name in enumerate(classes):
            axes.bar(range(len(members)), counts[:, number], bottom=below, label=name)
            below += counts[:, number]
        names = [member.site.removeprefix("site-").removeprefix("subject-") for member in members]
        axes.set_xticks(range(len(members)), names, fontsize=6, rotation=90)
        axes.set(title=task, ylabel="training examples")
        axes.set_ylim(top=1.3 * max(below.max(), 1))
        axes.legend(fontsize=6, ncols=3, loc="upper center")
    canvas.suptitle(title)
    _save(canvas, path)


def _panels(number: int) -> tuple[Canvas, list[Axes]]:
    """Return a canvas with panels side by side, three in a row."""
    columns = min(3, number)
    rows = -(-number // columns)
    canvas, panels = _canvas(4.2 * columns + 1, 3.2 * rows, rows, columns)
    for unused in panels[number:]:
        unused.set_visible(False)
    return canvas, panels[:number]


def _canvas(
    width: float, height: float, rows: int = 1, columns: int = 1
) -> tuple[Canvas, list[Axes]]:
    import matplotlib

    matplotlib.use("Agg")  # draws into files: a machine for benchmarks has no screen
    from matplotlib import pyplot

    canvas, grid = pyplot.subplots(
        rows, columns, figsize=(width, height), layout="constrained", squeeze=False
    )
    return canvas, list(grid.flat)


def _save(canvas: Canvas, path: Path) -> None:
    from matplotlib import pyplot

    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.savefig(path, dpi=110)
    pyplot.close(canvas)
