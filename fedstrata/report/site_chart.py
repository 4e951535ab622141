"""The leading measure of each site of a task, beside alone, the guess and the data in one place."""

from __future__ import annotations

from collections.abc import Mapping

from markupsafe import Markup

from fedstrata.protocol.measure_words import BASELINES, WORDS, value_text
from fedstrata.report.axes import draw_x, rounded_scale
from fedstrata.report.curves import GUESS, tick_text
from fedstrata.report.elements import WIDTH, Drawing, fitting
from fedstrata.runs.results import Measured

MOST = 40  # sites of a drawing
ROW, TOP, LEFT, RIGHT = 19.0, 6.0, 112.0, WIDTH - 24.0


def shown_sites(sites: Mapping[str, Measured]) -> list[str]:
    """Return the sites that are drawn, by name: all, or the `MOST` that gain least."""
    measured = [name for name, site in sites.items() if site.value is not None]
    if len(measured) <= MOST:
        return sorted(measured)

    def order(name: str) -> tuple[float, str]:
        site = sites[name]
        value = site.gain if site.gain is not None else site.measures.gain(site.value, 0.0)
        return value or 0.0, name

    return sorted(sorted(measured, key=order)[:MOST])


def draw(task: str, sites: Mapping[str, Measured]) -> Markup:
    """Return the drawing of a task's sites."""
    shown = shown_sites(sites)
    rows = [sites[name] for name in shown]
    lead = rows[0]
    measure = lead.measures.leading
    bottom = TOP + ROW * len(shown)
    drawing = Drawing(bottom + 40, f"{task}: {WORDS[measure]} of each site")
    values = [v for row in rows for v in (row.value, row.alone, row.baseline, row.pooled)]
    values += [end for row in rows if row.interval for end in row.interval]
    share = measure in ("accuracy", "auroc")
    x = rounded_scale(
        [v for v in values if v is not None], LEFT, RIGHT, lowest=0, highest=1 if share else None
    )
    unit = f" in {lead.unit}" if lead.unit and measure == "mae" else ""
    draw_x(drawing, x, TOP, bottom, f"{WORDS[measure]}{unit}", lambda v: tick_text(measure, v))
    for index, (name, row) in enumerate(zip(shown, rows, strict=True)):
        y = TOP + ROW * (index + 0.5)
        drawing.text(LEFT - 8, y + 4, fitting(name, LEFT - 10), "end", name)
        if row.interval:
            low, high = row.interval
            about = f"95 % interval {value_text(measure, low)} to {value_text(measure, high)}"
            drawing.shape("line", "interval", about, x1=x(low), y1=y, x2=x(high), y2=y)
        for about, value, mark, css in _marks(row):
            if value is not None:
                text = f"{name}, {about}: {value_text(measure, value, row.unit)}"
                drawing.mark(mark, x(value), y, css, text)
    return drawing.markup()


def legend_entries(sites: Mapping[str, Measured]) -> list[tuple[str, str, str]]:
    """Return what the legend says: only what there is."""
    entries = {}
    for site in sites.values():
        for about, value, mark, css in _marks(site):
            if value is not None:
                words = GUESS if mark == "tick" else about
                entries[css] = (mark, css, words)
    if any(site.interval for site in sites.values()):
        entries["interval"] = ("line", "interval", "95 % interval")
    return list(entries.values())


def _marks(row: Measured) -> list[tuple[str, float | None, str, str]]:
    guess = BASELINES[row.kind]
    return [
        (guess, row.baseline, "tick", "mark baseline"),
        ("in one place", row.pooled, "square", "mark pooled"),
        ("alone", row.alone, "diamond", "mark alone"),
        ("federated", row.value, "circle", "mark federated"),
    ]
