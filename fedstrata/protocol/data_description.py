"""What a site lets the server know of its data, beside the number of examples of each split."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fedstrata.protocol.limits import (
    DIGEST,
    MOST_CLASSES,
    MOST_EXAMPLES,
    MOST_WORD,
    Refused,
    one_line,
    printable,
)
from fedstrata.support.errors import UserError

RANGE, COUNTS, RATES, CONFUSION = "range", "classes", "rates", "confusion"
CHOICES = (RANGE, COUNTS, RATES, CONFUSION)  # what a deployed site may choose to say
DEFAULT = (RANGE, RATES)
MOST_NOTES = 50
SPLITS = frozenset(("train", "validation", "test"))
UNLIKE = 2.0  # ranges that span so many times what they have in common are of other devices


@dataclass(frozen=True)
class DataDescription:
    """What a site says of its data; a deployed one as far as its own settings let it.

    Parameters
    ----------
    value_range : tuple of float or None
        The values in its files that become 0 and 1.
    counts : mapping
        Examples by split, then by class.
    source : str
        Which domain, hospital, file or subject a site of a simulation is.
    notes : tuple of str
        How the data of a site of a simulation were read: what was left out, guessed or replaced.
    digest : str
        A SHA-256 of the data of a site of a simulation, which says whether runs are on the same data.
    """

    value_range: tuple[float, float] | None = None
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    source: str = ""
    notes: tuple[str, ...] = ()
    digest: str = ""

    def check(self) -> None:
        """Raise Refused for what no site says of its data."""
        if self.value_range is not None:
            low, high = self.value_range
            if not (math.isfinite(low) and math.isfinite(high) and low <= high):
                raise Refused(f"values from {low} to {high} are no range")
        for split, counted in self.counts.items():
            if split not in SPLITS or len(counted) > MOST_CLASSES:
                raise Refused("the examples of each class are not those of the three splits")
            for name, count in counted.items():
                if name != printable(name) or len(name) > MOST_WORD:
                    raise Refused(f"class names must be printable, at most {MOST_WORD} characters")
                if not 0 <= count <= MOST_EXAMPLES:
                    raise Refused(f"{count} examples of a class")
        if self.source != printable(self.source) or len(self.source) > MOST_WORD:
            raise Refused(f"the source must be printable, at most {MOST_WORD} characters")
        if self.digest and not DIGEST.fullmatch(self.digest):
            raise Refused("the digest of the data is no SHA-256")
        if len(self.notes) > MOST_NOTES or any(note != one_line(note) for note in self.notes):
            raise Refused(f"notes are at most {MOST_NOTES} printable lines")


def read_choices(text: str, where: str) -> tuple[str, ...]:
    """Return the choices in ``range,classes``; raise UserError for another word."""
    chosen = tuple(word.strip() for word in text.split(",") if word.strip())
    if wrong := sorted(set(chosen) - set(CHOICES)):
        raise UserError(f"{where} has {wrong[0]!r}; there is {', '.join(CHOICES)}")
    return chosen


def unlike_ranges(ranges: Mapping[str, tuple[float, float] | None]) -> str:
    """Return what is wrong with the ranges of several sites, or "" where they are alike.

    Parameters
    ----------
    ranges : mapping of str to tuple or None
        By site; None is no range, as of sites whose files have 8 bits.
    """
    by_range: dict[tuple[float, float] | None, list[str]] = {}
    for site, each in sorted(ranges.items()):
        by_range.setdefault(each, []).append(site)
    given = [each for each in by_range if each is not None]
    mixed = None in by_range and bool(given)
    if not mixed and _alike(given):
        return ""
    named = "; ".join(
        f"{_named(sites)}: {'no range' if each is None else f'{each[0]:g} to {each[1]:g}'}"
        for each, sites in sorted(by_range.items(), key=lambda pair: pair[1])
    )
    return (
        f"the sites scale their values by unlike ranges ({named}): the same tissue is darker at one "
        "than at another; give all sites one, as in data.range=[0,4095]"
    )


def _alike(ranges: Sequence[tuple[float, float]]) -> bool:
    """Whether what all ranges have in common is most of what they span together."""
    if len(ranges) < 2:
        return True
    lows, highs = zip(*ranges, strict=True)
    return bool(UNLIKE * (min(highs) - max(lows)) > max(highs) - min(lows))


def _named(sites: list[str]) -> str:
    more = f" and {len(sites) - 3} more" if len(sites) > 3 else ""
    return ", ".join(sites[:3]) + more
