"""Names of hospitals become names of folders, and hosts stand in certificates: both are checked."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consortium.members import Hospital, read_hospitals, read_hosts
from fedstrata.support.errors import UserError


def test_hospitals_are_read_in_order() -> None:
    hospitals = read_hospitals(["north:grade", "south:stage"])
    assert hospitals == (Hospital("north", "grade"), Hospital("south", "stage"))


@pytest.mark.parametrize("texts", [["a"], ["a:"], [":x"], ["../a:x"], ["a:x:y"], ["a:x", "a:y"]])
def test_what_is_no_hospital_is_refused(texts: list[str]) -> None:
    with pytest.raises(UserError, match="--hospital"):
        read_hospitals(texts)


def test_a_host_is_taken_once() -> None:
    assert read_hosts(["a.example", "10.0.0.1", "::1", "a.example"]) == (
        "a.example",
        "10.0.0.1",
        "::1",
    )


@pytest.mark.parametrize("hosts", [[], [""], ["-a"], ["a b"], ["a..b"], ["https://a"]])
def test_what_is_no_host_is_refused(hosts: list[str]) -> None:
    with pytest.raises(UserError, match="--server"):
        read_hosts(hosts)


@given(st.text())
def test_no_name_leaves_its_folder(text: str) -> None:
    try:
        (hospital,) = read_hospitals([text])
    except UserError:
        return
    assert "/" not in hospital.name
    assert hospital.name not in (".", "..")


@given(st.text())
def test_hosts_are_names_or_addresses(text: str) -> None:
    try:
        (host,) = read_hosts([text])
    except UserError:
        return
    assert host.isascii()
    assert not set(host) & set(" /\\\"'\n")
