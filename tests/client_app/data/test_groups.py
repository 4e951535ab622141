"""What belongs together is found by a column or by the path, and stays on one side."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client_app.data.cells import CellRules
from client_app.data.findings import Findings
from client_app.data.groups import (
    LONGEST_PATH,
    compile_pattern,
    groups_by_pattern,
    joined_units,
    likely_column,
    numbered_groups,
    on_both_sides,
    refuse_broken_groups,
)
from fedstrata.support.errors import UserError, private


def test_a_column_of_patients_is_noticed() -> None:
    for name in ("Patient ID", "PatientID", "patient", "Subject", "case_id", "MRN", "Patienten-Nr"):
        assert likely_column(["path", name]) == name
    assert likely_column(["StudyInstanceUID", "PatientID"]) == "PatientID"
    for other in ("patient_age", "patients", "age", "case", "study", "personality", "path"):
        assert likely_column([other]) is None


def test_a_pattern_finds_the_group_in_the_path() -> None:
    names = ["a/P1_x.png", "b/P12_y.png", "a/P1_z.png"]
    assert groups_by_pattern(names, r"(P\d+)_") == ["P1", "P12", "P1"]
    with pytest.raises(UserError, match=r"'a/x.png'; 'y.png': data.group_pattern=.*finds nothing"):
        groups_by_pattern(["a/x.png", "P1_", "y.png"], r"(P\d+)_")


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("P", "one group in round brackets.*has 0"),
        ("(P)(x)", "has 2"),
        ("(P", "no regular expression"),
        ("(a+)+b", "very long"),
        ("((a*)*)b", "very long"),
        ("(.*)a.*b.*c.*d.*", "at most 4"),
        ("(P)" + "x" * 200, "200 characters"),
    ],
)
def test_a_pattern_that_cannot_be_used_is_refused(pattern, message) -> None:
    with pytest.raises(UserError, match=message):
        compile_pattern(pattern)


def test_a_path_that_is_too_long_is_an_error_and_no_other_group() -> None:
    longest = "/P123_".rjust(LONGEST_PATH, "x")
    assert groups_by_pattern([longest], r"(\d+)_") == ["123"]
    with pytest.raises(UserError, match=f"finds nothing there; paths have at most {LONGEST_PATH}"):
        groups_by_pattern(["x" + longest], r"(\d+)_")


def test_an_example_without_a_group_is_alone() -> None:
    found = Findings()
    numbers = numbered_groups(["p1", "", "p2", "p1 ", "na"], CellRules(), found, "patient")
    assert numbers.tolist() == [0, -1, 1, 0, -2]
    assert found.warnings[0].whole.startswith("2 examples have no value in 'patient'")
    assert not found.notes


def test_a_patient_who_is_written_in_two_ways_is_one_group() -> None:
    found = Findings()
    written = ["p1", "P1", " p1 ", "2", "2.0", "p3"]
    assert numbered_groups(written, CellRules(), found, "patient").tolist() == [0, 0, 0, 1, 1, 2]
    assert found.notes[0].whole.startswith("2 values in 'patient' (data.group) differ")
    assert found.notes[0].public.startswith("values in 'patient'")
    long = ["12345678901234567890", "12345678901234567891", "1.2.840.0"]
    assert numbered_groups(long, CellRules(), found, "patient").tolist() == [0, 1, 2]


def test_units_join_what_is_linked_by_either() -> None:
    patients, copies = np.array([0, 0, 1, 2, 3]), np.array([0, 1, 1, 2, 3])
    assert joined_units(patients, copies).tolist() == [0, 0, 0, 3, 4]


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=12))
def test_units_never_cut_a_group(pairs) -> None:
    first, second = (np.array(each) for each in zip(*pairs, strict=True))
    units = joined_units(first, second)
    for numbers in (first, second):
        for value in set(numbers.tolist()):
            assert len(set(units[numbers == value].tolist())) == 1


def test_groups_on_two_sides_are_counted_and_refused() -> None:
    groups = np.array([0, 0, 1, 1, 2])
    sides = ["train", "test", "test", "test", None]
    assert on_both_sides(groups, sides) == [0]
    message = r"1 of 3 groups by 'patient' .*two splits, such as those of 0\.png; correct"
    with pytest.raises(UserError, match=message) as raised:
        refuse_broken_groups(
            groups, sides, "patient", lambda row: private(f"{row}.png"), between="splits"
        )
    assert "png" not in raised.value.public
    refuse_broken_groups(groups, ["a"] * 5, "patient", lambda _: private(""), between="sites")
