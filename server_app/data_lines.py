"""What the sites of a run say of their data, for the log: each line once, however many say it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fedstrata.protocol.data_description import unlike_ranges
from server_app.sites.members import Member
from server_app.tables import MOST_ROWS

MOST_NAMED = 5  # sites that a line is of


def data_lines(members: Mapping[str, Member]) -> list[str]:
    """Return the lines: how data were read in a simulation, who a site is, and unlike ranges."""
    said = {name: member.report.data for name, member in sorted(members.items())}
    by_line: dict[str, list[str]] = {}
    for name, data in said.items():
        for note in data.notes if data else ():
            by_line.setdefault(note, []).append(name)
    lines = [f"data: {line}{_of(sites, len(members))}" for line, sites in by_line.items()]
    named = {name: data.source for name, data in said.items() if data and data.source}
    # A site that is called as its data are needs no word.
    sources = [f"{name} is {source}" for name, source in named.items() if name != source]
    if sources:
        more = len(sources) - MOST_ROWS
        rest = f" and {more} more, which results.json has" if more > 0 else ""
        lines.append(f"data: {', '.join(sources[:MOST_ROWS])}{rest}")
    ranges = {name: data.value_range if data else None for name, data in said.items()}
    unlike = unlike_ranges(ranges)
    return [*lines, f"warning: {unlike}"] if unlike else lines


def _of(sites: Sequence[str], count: int) -> str:
    """Say which sites a line is of, unless it is of all."""
    if len(sites) == count:
        return ""
    more = f" and {len(sites) - MOST_NAMED} more" if len(sites) > MOST_NAMED else ""
    return f" ({', '.join(sites[:MOST_NAMED])}{more})"
