"""Learning curves of a task: the mean of its sites over the rounds, and how far the sites spread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from fedstrata.protocol.measure_words import BASELINES, WORDS, value_text
from fedstrata.report.axes import draw_x, draw_y, rounded_scale
from fedstrata.report.elements import WIDTH, Drawing
from fedstrata.runs.results import Measured, Results

HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 270.0, 52.0, WIDTH - 24.0, 24.0, 226.0
MARKS = ("circle", "diamond", "square", "triangle")
GUESS = "guess without input: majority class, chance or mean"
COLORS = 6  # classes c0 to c5 of the style


@dataclass(frozen=True)
class Point:
    """A task after so many rounds: its mean, and its lowest and highest site."""

    rounds: int
    value: float
    lowest: float
    highest: float


def points_of(results: Results, task: str) -> list[Point]:
    """Return the points of a task's curve.

    Round r measures the state as the sites received it, after r-1 rounds; the last state is
    measured at the end.
    """
    measured = [(each.round - 1, each.tasks, each.sites) for each in results.rounds]
    if results.final and results.rounds:
        measured.append((results.rounds[-1].round, results.final.tasks, results.final.sites))
    points = []
    for rounds, tasks, sites in measured:
        mean = tasks[task].value if task in tasks else None
        if mean is None:
            continue
        each = [one.value for one in sites.values() if one.task == task and one.value is not None]
        points.append(Point(rounds, mean, min([mean, *each]), max([mean, *each])))
    return points


def tasks_with_curves(runs: Sequence[Results]) -> dict[str, Measured]:
    """Return the tasks of any of the runs, with the newest measures of the first that has it."""
    found: dict[str, Measured] = {}
    for results in runs:
        found = results.tasks | found
    return dict(sorted(found.items()))


def draw(runs: Sequence[tuple[str, Results]], task: str) -> Markup:
    """Return the curves of a task in one or several runs.

    A single run also has the band of its sites, and the lines of training alone and of the guess.
    """
    lead = tasks_with_curves([results for _, results in runs])[task]
    # A task of one name may be of another kind in another run: its figures have no common axis.
    alike = [r.tasks[task].kind == lead.kind if task in r.tasks else False for _, r in runs]
    curves = [
        (name, points_of(results, task) if same else [])
        for (name, results), same in zip(runs, alike, strict=True)
    ]
    single = len(runs) == 1
    values = [p.value for _, points in curves for p in points]
    lines: list[tuple[str, float, str]] = []
    if single:
        values += [v for p in curves[0][1] for v in (p.lowest, p.highest)]
        lines = _lines(lead)
        values += [value for _, value, _ in lines]
    name = lead.measures.leading
    drawing = Drawing(HEIGHT, f"{task}: {WORDS[name]} by round")
    share = name in ("accuracy", "auroc")
    y = rounded_scale(
        values,
        BOTTOM,
        TOP,
        lowest=0 if share or min(values) >= 0 else None,
        highest=1 if share else None,
    )
    rounds = [p.rounds for _, points in curves for p in points]
    x = rounded_scale([0, max(rounds, default=1)], LEFT, RIGHT, lowest=0, highest=max([1, *rounds]))
    unit = f" in {lead.unit}" if lead.unit and name == "mae" else ""
    draw_y(drawing, y, LEFT, RIGHT, f"{WORDS[name]}{unit}", lambda v: tick_text(name, v))
    draw_x(drawing, x, TOP, BOTTOM, "rounds trained", lambda v: f"{v:g}")
    for about, value, css in lines:
        drawing.shape("line", css, about, x1=LEFT, y1=y(value), x2=RIGHT, y2=y(value))
    for index, (run, points) in enumerate(curves):
        color = f"c{index % COLORS}"
        if single:
            area = [(x(p.rounds), y(p.highest)) for p in points]
            area += [(x(p.rounds), y(p.lowest)) for p in reversed(points)]
            drawing.polygon(area, f"band {color}")
        css = f"curve {color} dash{index % 4 if not single else 0}"
        drawing.polyline([(x(p.rounds), y(p.value)) for p in points], css)
        sparse = points if len(points) <= 30 else points[-1:]
        for p in sparse:
            about = f"{run}: {value_text(name, p.value, lead.unit)} after {p.rounds} rounds"
            drawing.mark(MARKS[index % 4], x(p.rounds), y(p.value), f"dot {color}", about)
    return drawing.markup()


def legend_entries(runs: Sequence[tuple[str, Results]]) -> list[tuple[str, str, str]]:
    """Return what the legend of `draw` says."""
    if len(runs) > 1:
        return [
            (MARKS[i % 4], f"dot c{i % COLORS}", f"{name}{_how_often(results)}")
            for i, (name, results) in enumerate(runs)
        ]
    entries = [
        ("line", "curve c0", f"mean of the sites, by test examples{_how_often(runs[0][1])}"),
        ("band", "band c0", "from the lowest to the highest site"),
    ]
    lines = [line for lead in runs[0][1].tasks.values() for line in _lines(lead)]
    seen = {css: GUESS if css == "level baseline" else about for about, _, css in lines}
    return entries + [("line", css, about) for css, about in seen.items()]


def _how_often(results: Results) -> str:
    """Return that a curve's line joins measurements that lie apart, or ""."""
    every = results.evaluate_every
    joined = f" (measured every {every} rounds, and the line joins the measurements)"
    return joined if every > 1 else ""


def tick_text(name: str, value: float) -> str:
    """Return the value of a measure at an axis."""
    return f"{100 * value:.4g} %" if "accuracy" in name else f"{value:.4g}"


def _lines(lead: Measured) -> list[tuple[str, float, str]]:
    """Return the horizontal lines: what they are, where, and their class."""
    lines = [
        ("in one place", lead.pooled, "level pooled"),
        ("alone", lead.alone, "level alone"),
        (BASELINES[lead.kind], lead.baseline, "level baseline"),
    ]
    return [(about, value, css) for about, value, css in lines if value is not None]
