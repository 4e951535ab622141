"""A result of the doctor is ok, a problem, or not checked; a problem has the line to mend it."""

from __future__ import annotations

from site_guard.doctor.checks import OK, PROBLEM, UNKNOWN, ok, problem, unknown


def test_the_three_results() -> None:
    assert ok("a", "b").state == OK
    assert (problem("a", "b", "c").state, problem("a", "b", "c").mend) == (PROBLEM, "c")
    assert unknown("a", "b").state == UNKNOWN
