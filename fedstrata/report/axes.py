"""A plot's two axes: values to units, round ticks, grid lines and labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from fedstrata.report.elements import Drawing

_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True)
class Scale:
    """Values from ``low`` to ``high`` as units from ``start`` to ``end``."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Return where a value lies; one outside lies on the edge."""
        inside = min(max(value, self.low), self.high)
        return self.start + (inside - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, most: int = 5) -> list[float]:
        """Return round values inside, at most about ``most``."""
        step = _step(self.high - self.low, most)
        first = math.ceil(self.low / step - 1e-9)
        count = math.floor(self.high / step + 1e-9) - first
        return [(first + index) * step for index in range(count + 1)]


def rounded_scale(
    values: Iterable[float],
    start: float,
    end: float,
    *,
    lowest: float | None = None,
    highest: float | None = None,
) -> Scale:
    """Return a scale with room around ``values`` that begins and ends at round values.

    ``lowest`` and ``highest`` bound it: a share is never above 1.
    """
    known = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(known), max(known)
    if high - low < 1e-9 * max(1.0, abs(high)):
        margin = abs(high) * 0.05 or 0.5
        low, high = low - margin, high + margin
    step = _step(high - low, 5)
    low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
    low = low if lowest is None else max(low, lowest)
    high = high if highest is None else min(high, highest)
    return Scale(low, high, start, end) if low < high else Scale(low, low + 1.0, start, end)


def draw_x(
    drawing: Drawing,
    scale: Scale,
    top: float,
    bottom: float,
    label: str,
    text: Callable[[float], str],
) -> None:
    """Draw vertical grid lines, their values, and the label below."""
    for value in scale.ticks():
        x = scale(value)
        drawing.line(x, top, x, bottom, "grid")
        drawing.text(x, bottom + 15, text(value), "middle tick-text")
    drawing.text((scale.start + scale.end) / 2, bottom + 32, label, "middle label")


def draw_y(
    drawing: Drawing,
    scale: Scale,
    left: float,
    right: float,
    label: str,
    text: Callable[[float], str],
) -> None:
    """Draw horizontal grid lines, their values, and the label above."""
    for value in scale.ticks():
        y = scale(value)
        drawing.line(left, y, right, y, "grid")
        drawing.text(left - 6, y + 4, text(value), "end tick-text")
    drawing.text(2, 12, label, "label")


def _step(span: float, most: int) -> float:
    rough = span / most
    if not rough > 0 or not math.isfinite(rough):
        return 1.0
    size = 10.0 ** math.floor(math.log10(rough))
    return next(size * step for step in _STEPS if size * step >= rough * (1 - 1e-9))
