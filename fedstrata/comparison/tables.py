"""The comparison as tables: for Markdown, a terminal, and a log."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedstrata.comparison.rows import Figure, Part, Row, ScopeTable, StateRow
from fedstrata.protocol.limits import printable
from fedstrata.protocol.measure_words import WORDS, gain_text, value_text
from fedstrata.protocol.task_kinds import CLASSES

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as RichTable

MOST_NAME = 60  # characters of a row's name in a table; comparison.json has all
BEST_ON_TEST = (
    "best on test data, which chose the state, so the figures are too good (as PFLlib reports)"
)
LAST, BEST, COSTS = "after the last round", "chosen on validation data", "what it took"
Words = Callable[[float], str]


@dataclass(frozen=True)
class Table:
    """One table, as text."""

    title: str
    headings: tuple[str, ...]
    rows: list[tuple[str, ...]]


def tables_of(part: Part, *, best_on_test: bool = False) -> Iterator[Table]:
    """Yield the tables of a part; those of the state that is best on test data where asked for."""
    names = _names(part)
    for scope in part.scopes:
        for title, rows in ((LAST, scope.last), (BEST, scope.best)):
            if rows:
                yield _state_table(part, scope, title, rows, names)
        if best_on_test and scope.best_on_test:
            yield _state_table(part, scope, BEST_ON_TEST, scope.best_on_test, names)
    yield Table(
        COSTS,
        ("row", "seeds", "rounds", "MB up", "MB down", "seconds"),
        [_cost_row(row, names[row.name]) for row in part.rows],
    )


def markdown(part: Part, *, best_on_test: bool = False) -> str:
    """Return the tables and notes of a part as Markdown."""
    lines: list[str] = []
    for table in tables_of(part, best_on_test=best_on_test):
        rule = ["---"] + ["---:"] * (len(table.headings) - 1)
        lines += [f"### {_escaped(table.title)}", ""]
        for cells in (table.headings, rule, *table.rows):
            lines.append(f"| {' | '.join(map(_escaped, cells))} |")
        lines.append("")
    lines += [f"- {_escaped(note)}" for note in part.notes]
    return "\n".join(lines).rstrip() + "\n"


def print_tables(console: Console, part: Part, *, best_on_test: bool = False) -> None:
    """Print the tables and notes of a part."""
    from rich.text import Text

    for table in tables_of(part, best_on_test=best_on_test):
        console.print(Text(printable(table.title), style="bold"))
        console.print(_rich(table))
    for note in part.notes:
        console.print(Text(printable(f"note: {note}")), soft_wrap=True)


def plain(part: Part, *, best_on_test: bool = False) -> str:
    """Return the tables and notes of a part as plain text, as wide as they are."""
    from rich.console import Console

    console = Console(file=io.StringIO(), width=500, color_system=None)
    with console.capture() as caught:
        print_tables(console, part, best_on_test=best_on_test)
    return "\n".join(line.rstrip() for line in caught.get().splitlines())


def _rich(table: Table) -> RichTable:
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    made = RichTable(box=box.SIMPLE)
    for heading in table.headings:
        first = heading == table.headings[0]
        made.add_column(Text(printable(heading)), justify="left" if first else "right")
    for cells in table.rows:
        made.add_row(*(Text(printable(cell)) for cell in cells))
    return made


def _state_table(
    part: Part, scope: ScopeTable, title: str, rows: Sequence[StateRow], names: dict[str, str]
) -> Table:
    first = names[rows[0].row]
    several = len(rows) > 1
    # Where one word shows how two rows differ, it says what the first is.
    headings = ["row", "seeds", WORDS[scope.measure], "weighted", "worst site", "over alone"]
    headings += ["better alone"]
    headings += [f"over {first}"] if several else []
    headings += [] if title == LAST else ["round"]
    goal = scope.target is not None and title == LAST
    headings += [f"rounds to {_value(scope)(scope.target or 0.0)}"] if goal else []
    seeds = {row.name: row.seeds for row in part.rows}
    made = [_state_cells(scope, row, names, seeds[row.row], several) for row in rows]
    for cells, row in zip(made, rows, strict=True):
        if title != LAST:
            cells.append(_figure(row.state, _short))
        if goal:
            cells.append(_reached(row, len(seeds[row.row])))
    sites = f"{len(scope.sites)} site{'' if len(scope.sites) == 1 else 's'}"
    return Table(f"{scope.name}, {sites}, {title}", tuple(headings), [tuple(c) for c in made])


def _state_cells(
    scope: ScopeTable, row: StateRow, names: dict[str, str], seeds: Sequence[int], several: bool
) -> list[str]:
    cells = [
        names[row.row],
        seeds_text(seeds),
        *(_figure(each, _value(scope)) for each in (row.value, row.weighted, row.worst)),
        "-" if row.gain is None else _figure(row.gain, _gain(scope)),
        "-" if row.better_alone is None else f"{row.better_alone} of {row.paired_sites}",
    ]
    if several:
        cells.append("-" if row.over_first is None else _figure(row.over_first, _gain(scope)))
    return cells


def _cost_row(row: Row, name: str) -> tuple[str, ...]:
    amounts = [_figure(each, _short) for each in (row.rounds, row.mb_up, row.mb_down, row.seconds)]
    return (name, seeds_text(row.seeds), *amounts)


def seeds_text(seeds: Sequence[int]) -> str:
    """Return how many seeds a row has."""
    return f"one ({seeds[0]})" if len(seeds) == 1 else str(len(seeds))


def _figure(figure: Figure, words: Words) -> str:
    """Return the mean and, of several seeds, the deviation, with one unit."""
    if figure.mean is None:
        return "-"
    if figure.deviation is None or (words is _short and not figure.deviation):
        return words(figure.mean)
    number, _, unit = words(figure.mean).partition(" ")
    deviation = words(figure.deviation).partition(" ")[0].lstrip("+")
    return f"{number} ± {deviation}" + (f" {unit}" if unit else "")


def _value(scope: ScopeTable) -> Words:
    return lambda value: value_text(scope.measure, value, scope.unit)


def _gain(scope: ScopeTable) -> Words:
    kind = CLASSES if scope.kind == CLASSES else scope.kind
    return lambda value: gain_text(kind, value, scope.unit)


def _short(value: float) -> str:
    return f"{value:.0f}" if value == round(value) else f"{value:.2f}"


def _reached(row: StateRow, seeds: int) -> str:
    if row.reached is None or not row.reached.seeds:
        return "not reached"
    text = _figure(row.reached.rounds, _short)
    return text if row.reached.seeds == seeds else f"{text} ({row.reached.seeds} of {seeds} seeds)"


def _names(part: Part) -> dict[str, str]:
    """Return the rows' names as tables have them: short, and each another."""
    found: dict[str, str] = {}
    for row in part.rows:
        name = row.name
        short = name if len(name) <= MOST_NAME else f"{name[: MOST_NAME - 3]}..."
        taken = sum(each.partition(" (row ")[0] == short for each in found.values())
        found[name] = f"{short} (row {taken + 1})" if taken else short
    return found


def _escaped(text: str) -> str:
    """Return text that is nothing but text in a table of Markdown."""
    shown = printable(text).replace("\\", "\\\\")
    for sign in "|*_`[]":
        shown = shown.replace(sign, f"\\{sign}")
    return shown.replace("<", "&lt;")
