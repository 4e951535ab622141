"""Bytes by round and layer group, from the sites and to them, and the seconds of each round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from fedstrata.report.amounts import bytes_text, seconds_text
from fedstrata.report.axes import draw_y, rounded_scale
from fedstrata.report.elements import WIDTH, Drawing
from fedstrata.report.partition_chart import css_of
from fedstrata.runs.results import Round

MOST_COLUMNS = 60
HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 210.0, 64.0, WIDTH - 8.0, 24.0, 168.0


@dataclass(frozen=True)
class Column:
    """One round, or the mean of some that follow each other."""

    first: int
    last: int
    parts: Mapping[str, float]

    @property
    def label(self) -> str:
        """Which rounds."""
        same = self.first == self.last
        return f"round {self.first}" if same else f"rounds {self.first} to {self.last}, mean"


def columns_of(rounds: Sequence[Round], parts: Sequence[Mapping[str, float]]) -> list[Column]:
    """Return the columns: one a round, or means over as many rounds as are needed."""
    each = max(1, -(-len(rounds) // MOST_COLUMNS))
    columns = []
    for start in range(0, len(rounds), each):
        some = parts[start : start + each]
        names = sorted({name for part in some for name in part})
        means = {name: sum(part.get(name, 0) for part in some) / len(some) for name in names}
        last = rounds[min(start + each, len(rounds)) - 1].round
        columns.append(Column(rounds[start].round, last, means))
    return columns


def draw_bytes(rounds: Sequence[Round], *, up: bool) -> Markup:
    """Return the bytes of each round, stacked by layer group."""
    columns = columns_of(rounds, [each.bytes_up if up else each.bytes_down for each in rounds])
    others = columns_of(rounds, [each.bytes_down if up else each.bytes_up for each in rounds])
    highest = max((sum(column.parts.values()) for column in [*columns, *others]), default=0)
    label = "from the sites" if up else "to the sites"
    return _bars(columns, highest, label, bytes_text)


def draw_seconds(rounds: Sequence[Round]) -> Markup:
    """Return the seconds of each round at the server."""
    columns = columns_of(rounds, [{"seconds": each.seconds} for each in rounds])
    highest = max((sum(column.parts.values()) for column in columns), default=0)
    return _bars(columns, highest, "seconds of a round", seconds_text)


def _bars(columns: list[Column], highest: float, label: str, text: object) -> Markup:
    assert callable(text)
    drawing = Drawing(HEIGHT, f"{label} by round")
    y = rounded_scale([0, highest or 1], BOTTOM, TOP, lowest=0)
    draw_y(drawing, y, LEFT, RIGHT, label, text)
    wide = min(36.0, (RIGHT - LEFT) / max(1, len(columns)))
    step = max(1, -(-len(columns) // 8))
    for index, column in enumerate(columns):
        x, base = LEFT + wide * index, 0.0
        for name, amount in column.parts.items():
            css = "group-seconds" if name == "seconds" else css_of(name)
            about = f"{column.label}, {name}: {text(amount)}"
            top = y(base + amount)
            drawing.shape(
                "rect",
                f"bar {css}",
                about,
                x=x + wide * 0.08,
                y=top,
                width=wide * 0.84,
                height=max(0.0, y(base) - top),
            )
            base += amount
        if index % step == 0:
            drawing.text(x + wide / 2, BOTTOM + 15, str(column.first), "middle tick-text")
    drawing.text(LEFT + wide * len(columns) / 2, BOTTOM + 32, "round", "middle label")
    return drawing.markup()
