"""What a check of the doctor says: ok, a problem with the line to mend it, or not checked."""

from __future__ import annotations

from dataclasses import dataclass

OK, PROBLEM, UNKNOWN = "ok", "problem", "could not be checked"


@dataclass(frozen=True)
class Check:
    """The result of one check.

    Parameters
    ----------
    name : str
        What was checked, in a word or two.
    state : str
        ``OK``, ``PROBLEM`` or ``UNKNOWN``.
    text : str
        What was found.
    mend : str
        What to do about it, or "".
    """

    name: str
    state: str
    text: str
    mend: str = ""


def ok(name: str, text: str) -> Check:
    """Return the result of a check that found nothing wrong."""
    return Check(name, OK, text)


def problem(name: str, text: str, mend: str) -> Check:
    """Return the result of a check that found something wrong."""
    return Check(name, PROBLEM, text, mend)


def unknown(name: str, text: str, mend: str = "") -> Check:
    """Return that something could not be checked, and why."""
    return Check(name, UNKNOWN, text, mend)
