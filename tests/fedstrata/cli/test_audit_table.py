"""A line of an audit log as a row: hashes are short, and nothing controls the terminal."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fedstrata.cli.audit_table import row
from fedstrata.support.audit import Line


def line(**fields: object) -> Line:
    return Line(7, "2026-11-30T01:02:03.456+00:00", "left", dict(fields), "", b"", b"", "")


def test_a_hash_is_short_and_what_is_empty_is_left_out() -> None:
    shown = row(line(run="5", kind="train", round=2, plan="ef" * 32, signature="", received=0))
    assert shown.split() == [
        *("7", "2026-11-30", "01:02:03", "left", "train", "round", "2", "run", "5", "plan"),
        "efefefefefef",
    ]


@given(st.dictionaries(st.text(max_size=5), st.text(max_size=20) | st.integers(), max_size=3))
def test_no_field_controls_the_terminal(fields: dict[str, object]) -> None:
    assert row(line(why=fields, app="\x1b[2J")).isprintable()
