"""What reading a site's data left out, guessed or replaced: counted, and said."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from client_app.data.picture_sizes import PictureSizes
from fedstrata.support.errors import PrivateText, as_private_text

MOST_SHOWN = 5  # examples of what was left out that a line names


@dataclass
class Findings:
    """Filled by a loader while it reads; logged by the site and printed by `fedstrata check`.

    Everything here stays at the site; only a simulation shows it elsewhere.

    Parameters
    ----------
    left_out : Counter of str
        How many files, rows or pictures are not used, by reason: such as ``suffix``,
        ``unreadable``, ``link``, ``hidden``, ``no label``, ``system folder``, ``duplicate``.
    examples : dict
        By reason, the first few that were left out.
    missing : Counter of str
        By column, the cells of the site's file that say that nothing is known: of labels, and of
        the inputs of a table. Columns without any are not in it.
    notes, warnings : list of PrivateText
        What was taken how ("Training/ is the split train"), and what is probably a mistake.
    groups : mapping or None
        With `data.group`: ``by``, how many ``groups``, and how many stand ``on_both_sides``.
    sizes : PictureSizes or None
        Of pictures: how large they are in their files, and for the network.
    """

    left_out: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[PrivateText]] = field(default_factory=dict)
    missing: Counter[str] = field(default_factory=Counter)
    notes: list[PrivateText] = field(default_factory=list)
    warnings: list[PrivateText] = field(default_factory=list)
    groups: Mapping[str, Any] | None = None
    sizes: PictureSizes | None = None

    def leave_out(self, reason: str, what: str | PrivateText, count: int = 1) -> None:
        """Count something that is not used; the first of each reason are named in the log."""
        self.left_out[reason] += count
        named = self.examples.setdefault(reason, [])
        if len(named) < MOST_SHOWN:
            named.append(as_private_text(what))

    def miss(self, column: str, count: int) -> None:
        """Count cells of a column that say that nothing is known."""
        if count:
            self.missing[column] += count

    def note(self, text: str | PrivateText) -> None:
        """Say how something was taken, once."""
        _once(self.notes, text)

    def warn(self, text: str | PrivateText) -> None:
        """Say what is probably a mistake, once."""
        _once(self.warnings, text)

    def add(self, other: Findings) -> None:
        """Take over what another one has, but for the groups and sizes."""
        for reason, count in other.left_out.items():
            for what in other.examples.get(reason, []):
                self.leave_out(reason, what, 0)
            self.left_out[reason] += count
        self.missing.update(other.missing)
        for note in other.notes:
            self.note(note)
        for warning in other.warnings:
            self.warn(warning)

    def lines(self) -> list[str]:
        """Return all of it for the site's own log, in whole: names of files included."""
        counted = [
            f"left out, {reason}: {count} ({', '.join(each.whole for each in self.examples[reason])}"
            + (", ...)" if count > len(self.examples[reason]) else ")")
            for reason, count in sorted(self.left_out.items())
        ]
        notes = [note.whole for note in self.notes]
        return [*notes, *counted, *(f"warning: {warning.whole}" for warning in self.warnings)]


def _once(texts: list[PrivateText], text: str | PrivateText) -> None:
    made = as_private_text(text)
    if made not in texts:
        texts.append(made)
