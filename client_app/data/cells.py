"""What stands in the cells of a column: nothing, a number, yes or no; and when two are the same."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from fedstrata.protocol.categories import NUMBER as _POINT
from fedstrata.support.errors import PrivateText, UserError, private

MISSING = ("", "nan", "na", "n/a", "<na>", "#n/a", "#na", "none", "null", "nil")
MOST_NAMED = 10  # faults of one kind that an error names; the others are counted
TRUE, FALSE = ("1", "true", "yes", "y"), ("0", "false", "no", "n")
# What often says that nothing is known, but is not in every hospital's files.
_WORDS = ("unknown", "unk", "undefined", "missing", "not available", "not known", "not recorded")
_OTHER_WORDS = ("tbd", "n.a", "n.a.", "unbekannt", "inconnu", "inconnue", "desconocido", "onbekend")
_OF_PROGRAMS = ("nat", "#n/a n/a", "-nan", "1.#qnan", "-1.#qnan", "1.#ind", "-1.#ind", "#null!")
_OF_SHEETS = ("#value!", "#ref!", "#div/0!", "#name?", "#num!")
_CODES = ("-1", "-9", "-99", "-999", "-9999", "999", "9999")
_DOUBTFUL = {*MISSING, *_WORDS, *_OTHER_WORDS, *_OF_PROGRAMS, *_OF_SHEETS, *_CODES}
_COMMA = re.compile(r"[+-]?(?:\d+,?\d*|,\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_BEYOND = re.compile(r"[+-]?(?:inf|infinity)", re.IGNORECASE)


@dataclass(frozen=True)
class CellRules:
    """How cells are read, for all columns of a data set.

    Parameters
    ----------
    missing : sequence of str
        Words that mean "no value", in any case and with blanks around; an empty cell is one too.
    join : bool
        Whether labels that differ in case, blanks or the format of a number are one label.
    decimal : str
        What stands before the decimals of a number: ``.`` or ``,``.
    """

    missing: Sequence[str] = MISSING
    join: bool = False
    decimal: str = "."

    def __post_init__(self) -> None:
        if self.decimal not in (".", ","):
            raise UserError(f'data.decimal: "." or ",", not {self.decimal[:20]!r}')

    def is_missing(self, cell: str) -> bool:
        """Return whether the cell has no value."""
        word = " ".join(cell.split()).casefold()
        return not word or word in self._words

    @cached_property
    def _words(self) -> frozenset[str]:
        return frozenset(" ".join(each.split()).casefold() for each in self.missing)

    def number(self, cell: str) -> float | None:
        """Return the number that the cell is, infinity for one that is too large; None for none."""
        text = cell.strip()
        if _BEYOND.fullmatch(text):
            return float("inf")
        pattern = _POINT if self.decimal == "." else _COMMA
        return float(text.replace(",", ".")) if pattern.fullmatch(text) else None

    def looks_like_other_decimals(self, cell: str) -> bool:
        """Return whether the cell would be a number with the other decimal sign."""
        other = CellRules(decimal="," if self.decimal == "." else ".")
        return self.number(cell) is None and other.number(cell) is not None


@dataclass(frozen=True)
class Cells:
    """The cells of a task's columns, example by example.

    Parameters
    ----------
    columns : sequence of sequences of str
        One sequence for each column of the task, all of the same length.
    where : callable
        Returns where example ``i`` is, for error texts: its file and line.
    source : str or PrivateText
        Where all of them are, for error texts: the file or folder.
    what : str
        What one example is: ``picture``, ``text`` or ``row``.
    folders : bool
        Whether the labels are the names of folders: those are never missing.
    """

    columns: Sequence[Sequence[str]]
    where: Callable[[int], PrivateText]
    source: str | PrivateText = "the data"
    what: str = "row"
    folders: bool = False

    def __len__(self) -> int:
        return len(self.columns[0])


@dataclass
class Faults:
    """Faults of one kind, found row by row and named together."""

    first: list[PrivateText] = field(default_factory=list)
    count: int = 0

    def add(self, text: PrivateText) -> None:
        """Count a fault, and keep the text of the first ones."""
        self.count += 1
        if self.count <= MOST_NAMED:
            self.first.append(text)

    def raise_any(self, advice: str | PrivateText) -> None:
        """Raise a `UserError` that names the faults, if there are any."""
        if self.count:
            raise UserError(joined(self.first, self.count) + advice)


def joined(texts: Sequence[PrivateText], count: int) -> PrivateText:
    """Return the first text, and after it, privately, the others and how many more there are."""
    more = [f"; {text.whole}" for text in texts[1:MOST_NAMED]]
    rest = count - min(len(texts), MOST_NAMED)
    return texts[0] + private("".join(more) + (f"; and {rest} more" if rest else ""))


def normal(text: str) -> str:
    """Return a name as it is compared: in Unicode's composed form (NFC), without blanks around."""
    return unicodedata.normalize("NFC", text).strip()


def perhaps_missing(cell: str) -> bool:
    """Return whether a cell often means "not known": no letter or digit in it, or such a word."""
    word = normal(" ".join(cell.split()).casefold()).strip("\ufeff\u200b")
    return word in _DOUBTFUL or not any(map(str.isalnum, word))


def same_key(label: str) -> str:
    """Return what labels have in common that differ in case, blanks or the format of a number."""
    text = normal(" ".join(label.split()).casefold())
    if not _POINT.fullmatch(text):
        return text
    value = float(text)
    return str(int(value)) if value.is_integer() else repr(value)
