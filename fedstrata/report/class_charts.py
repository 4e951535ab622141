"""Confusion matrix, calibration and ROC of a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from fedstrata.report.axes import Scale, draw_x, draw_y
from fedstrata.report.curves import COLORS
from fedstrata.report.elements import WIDTH, Drawing, fitting
from fedstrata.runs.results import Calibration

MOST_CURVES, MOST_WRITTEN = 8, 10
LEFT, RIGHT, TOP, BOTTOM, HEIGHT = 52.0, WIDTH - 14.0, 24.0, 286.0, 330.0
_UNIT = (0.0, 1.0)


def draw_confusion(names: Sequence[str], counts: Sequence[Sequence[int]]) -> Markup:
    """Return the matrix: a row of each true class, a column of each answer, shaded by its share."""
    size = len(counts)
    left, top = 112.0, 26.0
    cell = (WIDTH - left - 6) / max(1, size)
    tall = min(cell, 56.0)
    drawing = Drawing(top + tall * size + 36, "confusion matrix")
    drawing.text(left - 8, 16, "true class", "end label")
    written = size <= MOST_WRITTEN
    for row, cells in enumerate(counts):
        y = top + tall * row
        total = sum(cells) or 1
        drawing.text(left - 8, y + tall / 2 + 4, fitting(names[row], left - 10), "end", names[row])
        for column, count in enumerate(cells):
            x = left + cell * column
            share = count / total
            about = f"{names[row]}, answered {names[column]}: {count} ({100 * share:.1f} %)"
            css = f"heat heat{round(10 * share)}"
            drawing.shape("rect", css, about, x=x, y=y, width=cell - 1, height=tall - 1)
            if written:
                light = " on-dark" if share >= 0.55 else ""
                drawing.text(x + cell / 2, y + tall / 2 + 4, str(count), f"middle{light}", about)
    if written:
        for column in range(size):
            text = fitting(names[column], cell)
            x = left + cell * (column + 0.5)
            drawing.text(x, top + tall * size + 14, text, "middle tick-text", names[column])
    drawing.text(left + cell * size / 2, top + tall * size + 31, "answer", "middle label")
    return drawing.markup()


def draw_calibration(calibration: Calibration) -> Markup:
    """Return how often a class holds against how sure the network says it is."""
    drawing, x, y = _square("calibration", "probability that it says", "share in which it holds")
    there = [each for each in calibration.bins if each is not None]
    drawing.polyline([(x(sure), y(right)) for sure, right, _ in there], "curve c0")
    for sure, right, share in there:
        about = f"says {sure:.3f}, holds in {right:.3f}, {100 * share:.1f} % of the examples"
        drawing.shape("circle", "dot c0", about, cx=x(sure), cy=y(right), r=2.5 + 7 * share**0.5)
    return drawing.markup()


def draw_roc(roc: Mapping[str, Sequence[float]]) -> Markup:
    """Return the ROC of each class; at most `MOST_CURVES`, the first."""
    drawing, x, y = _square("ROC", "1 - specificity", "sensitivity")
    for index, values in enumerate(shown_roc(roc).values()):
        points = [(x(i / max(1, len(values) - 1)), y(value)) for i, value in enumerate(values)]
        css = f"curve c{index % COLORS} dash{index % 4}"
        drawing.polyline(points, css)
    return drawing.markup()


def shown_roc(roc: Mapping[str, Sequence[float]]) -> dict[str, Sequence[float]]:
    """Return the curves that are drawn."""
    return dict(list(roc.items())[:MOST_CURVES])


def roc_legend(roc: Mapping[str, Sequence[float]]) -> list[tuple[str, str, str]]:
    """Return what the legend of the ROC says."""
    return [
        ("line", f"curve c{index % COLORS} dash{index % 4}", name)
        for index, name in enumerate(shown_roc(roc))
    ]


def _square(title: str, below: str, beside: str) -> tuple[Drawing, Scale, Scale]:
    drawing = Drawing(HEIGHT, title)
    x, y = Scale(*_UNIT, LEFT, RIGHT), Scale(*_UNIT, BOTTOM, TOP)
    draw_y(drawing, y, LEFT, RIGHT, beside, lambda value: f"{value:.1f}")
    draw_x(drawing, x, TOP, BOTTOM, below, lambda value: f"{value:.1f}")
    drawing.line(x(0), y(0), x(1), y(1), "level baseline")
    return drawing, x, y
