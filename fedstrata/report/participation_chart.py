"""Who took part in which round, site by site."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from fedstrata.report.elements import WIDTH, Drawing, fitting
from fedstrata.runs.results import Results

MOST_SITES, MOST_COLUMNS = 40, 60
ROW, TOP, LEFT, RIGHT = 17.0, 4.0, 112.0, WIDTH - 6.0
# What a site did in a round, the worst last, with its mark.
STATES = ("not asked", "took part", "late", "absent", "refused")


@dataclass(frozen=True)
class Participation:
    """What is drawn: the sites, what each did, and how many rounds a column is."""

    shown: dict[str, list[str]]
    others: int
    rounds: int
    per_column: int


def participation_of(results: Results) -> Participation:
    """Return the rows that are drawn: all, or those of the sites that missed most.

    Rounds beyond `MOST_COLUMNS` share columns, which then show the worst that happened.
    """
    everyone = {
        site: [state if state in STATES else "not asked" for state in states]
        for site, states in sorted(results.participation.items())
    }
    rounds = max(map(len, everyone.values()), default=0)
    per_column = max(1, -(-rounds // MOST_COLUMNS))
    names = sorted(everyone, key=lambda site: -missed(everyone[site]))[:MOST_SITES]
    shown = {site: _columns(everyone[site], per_column) for site in sorted(names)}
    return Participation(shown, len(everyone) - len(shown), rounds, per_column)


def missed(states: Sequence[str]) -> int:
    """Return in how many rounds a site was asked and did not contribute."""
    return sum(state not in ("took part", "not asked") for state in states)


def draw(found: Participation, names: Mapping[str, str]) -> Markup:
    """Return the drawing; ``names`` has what is shown when a site's name is hovered over."""
    columns = max(map(len, found.shown.values()), default=0)
    wide = min(ROW, (RIGHT - LEFT) / max(1, columns))
    bottom = TOP + ROW * len(found.shown)
    drawing = Drawing(bottom + 36, "participation by site and round")
    for row, (site, states) in enumerate(found.shown.items()):
        y = TOP + ROW * row
        drawing.text(LEFT - 8, y + 12, fitting(site, LEFT - 10), "end", names.get(site, site))
        for column, state in enumerate(states):
            cell(drawing, state, LEFT + wide * column, y, wide)
    step = max(1, -(-columns // 8))
    for column in range(0, columns, step):
        middle = LEFT + wide * (column + 0.5)
        drawing.text(middle, bottom + 14, str(column * found.per_column + 1), "middle tick-text")
    drawing.text(LEFT + wide * columns / 2, bottom + 30, "round", "middle label")
    return drawing.markup()


def cell(drawing: Drawing, state: str, x: float, y: float, wide: float) -> None:
    """Draw what a site did: each state has its own shape besides its color."""
    inner = max(wide - 2, 0.8 * wide)
    left, top, tall = x + (wide - inner) / 2, y + 1.0, ROW - 2
    css = f"cell {state.replace(' ', '-')}"
    if state == "not asked":
        drawing.shape("circle", css, cx=x + wide / 2, cy=y + ROW / 2, r=min(1.5, wide / 3))
    elif state == "late":
        drawing.shape("rect", css, x=left, y=top + tall / 2, width=inner, height=tall / 2)
    elif state == "absent":
        drawing.shape("rect", css, x=left + 0.7, y=top + 0.7, width=inner - 1.4, height=tall - 1.4)
    else:
        drawing.shape("rect", css, x=left, y=top, width=inner, height=tall)
    if state == "refused":
        drawing.line(left + 2, top + 2, left + inner - 2, top + tall - 2, "strike")
        drawing.line(left + 2, top + tall - 2, left + inner - 2, top + 2, "strike")


def legend_entries(found: Participation) -> list[str]:
    """Return the states that occur, in the order of `STATES`."""
    there = {state for states in found.shown.values() for state in states}
    return [state for state in STATES if state in there]


def _columns(states: list[str], per_column: int) -> list[str]:
    return [
        max(states[start : start + per_column], key=STATES.index)
        for start in range(0, len(states), per_column)
    ]
