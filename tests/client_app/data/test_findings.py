"""Tests of what reading the data found."""

from __future__ import annotations

from client_app.data.findings import MOST_SHOWN, Findings
from fedstrata.support.errors import private


def test_what_is_left_out_is_counted_and_the_first_are_named() -> None:
    findings = Findings()
    for number in range(MOST_SHOWN + 2):
        findings.leave_out("suffix", private(f"{number}.xyz"))
    (line,) = findings.lines()
    assert line == "left out, suffix: 7 (0.xyz, 1.xyz, 2.xyz, 3.xyz, 4.xyz, ...)"


def test_everything_is_named_where_it_is_little() -> None:
    findings = Findings()
    findings.leave_out("link", "a")
    assert findings.lines() == ["left out, link: 1 (a)"]


def test_the_same_is_said_once() -> None:
    findings = Findings()
    for _ in range(2):
        findings.note("Training/ is the split train")
        findings.warn("few pictures")
    assert findings.lines() == ["Training/ is the split train", "warning: few pictures"]


def test_findings_are_taken_over_with_their_counts() -> None:
    one, other = Findings(), Findings()
    for found in (one, other):
        found.leave_out("suffix", "a.txt", 3)
        found.note("a note")
        found.warn("a warning")
    one.add(other)
    assert one.left_out == {"suffix": 6}
    assert len(one.notes) == len(one.warnings) == 1


def test_missing_values_are_counted_by_column() -> None:
    one, other = Findings(), Findings()
    one.miss("age", 2)
    one.miss("sex", 0)
    other.miss("age", 1)
    one.add(other)
    assert one.missing == {"age": 3}
