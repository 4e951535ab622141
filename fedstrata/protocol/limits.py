"""Limits of what is accepted from another machine, and the exceptions for what exceeds them."""

from __future__ import annotations

import re

MOST_REPORT_CHARACTERS = 4_000_000
MOST_REASON_CHARACTERS = 2000
# Of a site, a task, a federation. Names become names of files, so a path or a hidden file is none.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
MOST_RUN_NAME = 55  # characters that a person may choose: the federation's name has nine more
MOST_COUNTED = 2**40  # of anything that a report counts
# Examples of a split that a site may announce. The sums of all sites' layers are in fixed point, as
# coarse as the announced number of examples: a site that announces too many makes it coarse for all.
MOST_EXAMPLES = 2**24
MOST_LOSS = 1e39  # above any that is finite in float32
MOST_WORD = 200  # characters of the name of a class or a device, or of a version
MOST_UNIT = 30  # characters of a number's unit
MOST_STEPS = 32  # differences one after the other that a group may travel as
KNOWN_ROUNDS = 3  # the last rounds of which a site keeps what it received
MOST_KNOWN_STATES = KNOWN_ROUNDS + 1  # of a group: those rounds', and the run's start
MOST_DURABLE = 16  # earlier rounds of which an order has a site keep its own layers
DIGEST = re.compile(r"[0-9a-f]{64}")
MOST_CLASSES = 2**16  # of a task
MOST_AXES, MOST_VALUES = 8, 2**26  # of one input


class Refused(ValueError):
    """An answer or order that is not accepted; the text is the reason, on one line."""

    def __init__(self, reason: str) -> None:
        super().__init__(one_line(reason))


class NotNow(Refused):
    """An order that is refused now and may be accepted at another time."""


class NotFinite(Refused):
    """An answer that a site could not make, because what it computed is not finite."""


def printable(text: str) -> str:
    """Return ``text`` without characters that could control a terminal or break a line."""
    return "".join(character if character.isprintable() else "?" for character in text)


def one_line(text: str) -> str:
    """Return a text from elsewhere as it may stand in a log and in results.json: one short line."""
    return printable(text[:MOST_REASON_CHARACTERS])
