"""Each site's model, or its layers, on each other site's test data: a table as a heat map."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from markupsafe import Markup

from fedstrata.protocol.measure_words import WORDS, value_text
from fedstrata.report.elements import CHARACTER, WIDTH, Drawing, fitting
from fedstrata.runs.results import CrossSiteTask, Measured

MOST = 40  # sites of a drawing
TOP, LEFT = 40.0, 116.0
TALL, FLAT, MOST_TALL = 26.0, 16.0, 12  # units of a row, and how many rows may be tall
SHADES = 10
DARK = 6  # from this shade on, the page's style has a text for dark ground
LAST_STATE = "last state"


def shown_sites(task: CrossSiteTask) -> list[str]:
    """Return the sites that are drawn: the first `MOST` that have a value in their row or column."""
    measured = {data for on in task.models.values() for data in on}
    measured |= {model for model, on in task.models.items() if on}
    return sorted(measured)[:MOST]


def draw(name: str, task: CrossSiteTask, last: Mapping[str, Measured] | None = None) -> Markup:
    """Return the drawing: a row of each model, a column of each site's test data.

    Parameters
    ----------
    name : str
        The task's.
    task : CrossSiteTask
        The values.
    last : mapping of str to Measured, optional
        What the last state is worth at each site, for a first row.
    """
    leading = task.measures.leading
    shown = shown_sites(task)
    rows: dict[str, Mapping[str, Measured]] = {site: task.models.get(site, {}) for site in shown}
    labels = {site: site for site in shown}
    cell = (WIDTH - LEFT - 4) / max(1, len(shown))
    heads = {site: site for site in shown}
    if max(map(len, shown), default=0) * CHARACTER > cell:  # then columns have the rows' numbers
        heads = {site: str(number) for number, site in enumerate(shown, 1)}
        labels = {site: f"{heads[site]}  {site}" for site in shown}
    if last:
        rows, labels = {"": last, **rows}, {"": LAST_STATE, **labels}
    lowest, highest = value_range(task, last)
    height = TALL if len(rows) <= MOST_TALL else FLAT
    drawing = Drawing(TOP + height * len(rows) + 6, f"{name}: {WORDS[leading]}, cross-site")
    middle = LEFT + (WIDTH - LEFT) / 2
    drawing.text(middle, 13, "on the test data of", "middle label")
    step = 1 + int(CHARACTER * 2.5 / cell) if labels != heads else 1
    for place, site in enumerate(shown):
        if place % step == 0:
            x = LEFT + cell * (place + 0.5)
            drawing.text(x, TOP - 8, heads[site], "middle tick-text", site)
    for line, (model, on) in enumerate(rows.items()):
        y = TOP + height * line
        text = fitting(labels[model], LEFT - 8)
        drawing.text(LEFT - 6, y + height / 2 + 4, text, "end", labels[model])
        for place, site in enumerate(shown):
            value = on[site].of(leading) if site in on else None
            whole = value_text(leading, value, task.unit)
            about = f"{model or LAST_STATE} on the data of {site}: {whole}"
            box = {"x": LEFT + cell * place, "y": y, "width": cell - 1.5, "height": height - 1.5}
            if value is None:
                drawing.text(
                    LEFT + cell * (place + 0.5) - 1, y + height / 2 + 4, "-", "middle", about
                )
                continue
            shade = _shade(task, value, lowest, highest)
            own = " own" if model == site else ""
            drawing.shape("rect", f"heat heat{shade}{own}", about, **box)
            text = short_text(leading, value)
            if len(text) * CHARACTER <= cell:
                css = "middle on-dark" if shade >= DARK else "middle"
                drawing.text(LEFT + cell * (place + 0.5) - 1, y + height / 2 + 4, text, css, about)
    return drawing.markup()


def value_range(
    task: CrossSiteTask, last: Mapping[str, Measured] | None = None
) -> tuple[float, float]:
    """Return the lowest and the highest value of what is drawn."""
    leading, shown = task.measures.leading, shown_sites(task)
    rows: Iterable[Mapping[str, Measured]] = [
        *(task.models.get(site, {}) for site in shown),
        *([last] if last else []),
    ]
    every = [on[site].of(leading) for on in rows for site in shown if site in on]
    known = [value for value in every if value is not None]
    return min(known, default=0.0), max(known, default=0.0)


def legend_text(task: CrossSiteTask, last: Mapping[str, Measured] | None = None) -> str:
    """Return what the shades mean."""
    leading = task.measures.leading
    ends = [value_text(leading, value, task.unit) for value in value_range(task, last)]
    if task.measures.lower_is_better:
        ends.reverse()
    return f"{WORDS[leading]} from {ends[0]} (pale) to {ends[1]} (full color, the best)"


def short_text(measure: str, value: float) -> str:
    """Return a value as it fits a cell: percent without its sign, and no unit."""
    if "accuracy" in measure:
        return f"{100 * value:.1f}"
    return f"{value:.3g}" if measure in ("mae", "rmse") else f"{value:.2f}"


def _shade(task: CrossSiteTask, value: float, lowest: float, highest: float) -> int:
    """Return how dark a cell is: from 0 for the worst value to `SHADES` for the best."""
    if highest <= lowest:
        return SHADES // 2
    share = (value - lowest) / (highest - lowest)
    return round(SHADES * (1 - share if task.measures.lower_is_better else share))
