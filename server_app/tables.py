"""Tables for people, as plain text: the layer groups, and who takes part."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from fedstrata.protocol.measure_words import measures_of
from models.groups import GroupRow

MEGABYTE = 1e6
MOST_ROWS = 50  # of sites or tasks in what is printed; all of them are in results.json
Row = Mapping[str, Any]


def partition_table(rows: Sequence[GroupRow]) -> str:
    """Return the layer groups as a table: tensors, parameters, MB, trained, sent to whom."""
    table = Table(title="Layer groups")
    for heading in ("group", "tensors", "parameters", "MB", "trained", "averaged over"):
        right = heading in ("tensors", "parameters", "MB")
        table.add_column(heading, justify="right" if right else "left")
    for row in rows:
        table.add_row(
            row.group,
            str(row.tensors),
            f"{row.parameters:,}",
            f"{row.bytes / MEGABYTE:.2f}",
            "yes" if row.trained else "no",
            row.sent_to,
        )
    return rendered(table)


def sites_table(sites: Mapping[str, Mapping[str, Any]]) -> str:
    """Return who takes part, as a table."""
    table = Table(title=f"{len(sites)} sites")
    several = any(site.get("model") for site in sites.values())
    model = ("model",) if several else ()
    for heading in ("site", "task", *model, "classes", "train", "validation", "test", "device"):
        table.add_column(heading)
    for name, site in list(sites.items())[:MOST_ROWS]:
        counts = site["examples"]
        table.add_row(
            name,
            site["task"],
            *((site["model"],) if several else ()),
            ", ".join(site["classes"][:6]) + (", ..." if len(site["classes"]) > 6 else ""),
            *(str(counts[split]) for split in ("train", "validation", "test")),
            site["device"],
        )
    if (more := len(sites) - MOST_ROWS) > 0:
        table.add_row(f"{more} more")
    return rendered(table)


def worst_sites(rows: Mapping[str, Row], gain: str) -> tuple[str, dict[str, Row]]:
    """Return which sites a table shows, in words, and their rows: of many those that gained least.

    Parameters
    ----------
    rows : mapping
        By site.
    gain : str
        The key of what a site gained over training alone; sites without are compared by their
        leading measure, and stand below the others.
    """
    if len(rows) <= MOST_ROWS:
        return "per site", dict(rows)

    def merit(name: str) -> tuple[bool, float, str]:
        row, measures = rows[name], measures_of(rows[name])
        if row[gain] is not None:
            return False, float(row[gain]), name
        value = {**row, **row.get("after", {})}[measures.leading]
        return True, (value or 0.0) * (-1 if measures.lower_is_better else 1), name

    chosen = sorted(rows, key=merit)[:MOST_ROWS]
    return f"the {MOST_ROWS} worst of {len(rows)} sites", {name: rows[name] for name in chosen}


def rendered(table: Table) -> str:
    """Return a table as plain text; what stands in a cell is printed as it is, and never read.

    Names come from sites: ``[bold]`` and ``:warning:`` are names as others are.
    """
    console = Console(
        file=io.StringIO(),
        width=118,
        force_terminal=False,
        color_system=None,
        markup=False,
        emoji=False,
        highlight=False,
    )
    console.print(table)
    written = console.file
    assert isinstance(written, io.StringIO)
    return written.getvalue()
