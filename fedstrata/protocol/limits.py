"""The limits of what is taken from another machine, and what is raised beyond them."""

from __future__ import annotations

import re

MOST_REPORT_CHARACTERS = 4_000_000
MOST_REASON_CHARACTERS = 2000
NAME = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
)  # of a site, a task, a federation: a file's name
MOST_RUN_NAME = 55  # characters that a person may choose: the federation's name has nine more
MOST_COUNTED = 2**40  # of anything that a report counts
# Examples of a split that a site may announce: the sums of all sites' layers have a fixed point that
# follows from them, and who announces more than there are makes it coarse for all.
MOST_EXAMPLES = 2**24
MOST_LOSS = 1e39  # above any that is finite in float32
MOST_WORD = 200  # characters of a class's name, a device, a version
MOST_STEPS = 32  # differences one after the other that a group may travel as
KNOWN_ROUNDS = 3  # the last rounds of which a site keeps what it received
MOST_KNOWN_STATES = (
    KNOWN_ROUNDS + 1
)  # states of a group that a site holds: those, and the run's start
DIGEST = re.compile(r"[0-9a-f]{64}")
MOST_CLASSES, MOST_AXES, MOST_VALUES = 2**16, 8, 2**26  # of a task; of one input, which has values


class Refused(ValueError):
    """An answer that is not taken; the text is the reason, as `one_line` bounds it."""

    def __init__(self, reason: str) -> None:
        super().__init__(one_line(reason))


class NotNow(Refused):
    """What is refused now, and may be taken at another time."""


def printable(text: str) -> str:
    """Return ``text`` with everything replaced that could steer a terminal or break a line."""
    return "".join(character if character.isprintable() else "?" for character in text)


def one_line(text: str) -> str:
    """Return a stranger's text as it may stand in a log and in results.json: one short line."""
    return printable(text[:MOST_REASON_CHARACTERS])
