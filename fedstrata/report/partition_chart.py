"""The partition of a network as a stack of its layer groups, drawn by size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from fedstrata.report.amounts import bytes_text, count_text
from fedstrata.report.elements import WIDTH, Drawing
from fedstrata.runs.results import GroupRow

ROOM, LEAST, GAP = 170.0, 40.0, 5.0
_CSS = ("pretrained", "common", "task", "personal")


def alike(partition: Mapping[str, Sequence[GroupRow]]) -> list[tuple[list[str], list[GroupRow]]]:
    """Return the different partitions, each with the tasks that have it."""
    found: dict[tuple[GroupRow, ...], list[str]] = {}
    for task, rows in sorted(partition.items()):
        found.setdefault(tuple(rows), []).append(task)
    return [(tasks, list(rows)) for rows, tasks in found.items()]


def css_of(group: str) -> str:
    """Return the class of a group's color."""
    known = group.partition("/")[0]
    return f"group-{known}" if known in _CSS else "group-other"


def draw(tasks: Sequence[str], rows: Sequence[GroupRow]) -> Markup:
    """Return the stack: the first layers at the bottom, heights by numbers of parameters."""
    there = [row for row in rows if row.parameters]
    total = sum(row.parameters for row in there) or 1
    heights = [LEAST + ROOM * row.parameters / total for row in there]
    height = sum(heights) + GAP * max(0, len(there) - 1) + 4
    drawing = Drawing(height, f"layer groups of {', '.join(tasks)}")
    y = height - 2
    for row, tall in zip(there, heights, strict=True):
        y -= tall
        drawing.shape(
            "rect",
            f"layer {css_of(row.group)}",
            row.sent_to,
            x=2,
            y=y,
            width=WIDTH - 4,
            height=tall,
            rx=5,
        )
        middle = y + tall / 2
        share = 100 * row.parameters / total
        drawing.text(14, middle - 3, row.group, "strong on-layer")
        drawing.text(
            WIDTH - 14,
            middle - 3,
            f"{count_text(row.parameters)} parameters, {share:.3g} %",
            "end on-layer",
        )
        drawing.text(14, middle + 12, f"to {row.sent_to}", "on-layer")
        drawing.text(
            WIDTH - 14,
            middle + 12,
            f"{row.tensors} tensors, {bytes_text(row.bytes)}",
            "end on-layer",
        )
        y -= GAP
    return drawing.markup()
