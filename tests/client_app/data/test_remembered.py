"""A folder is listed once for all sites of a simulation, and anew when it changes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from client_app.data import remembered as module
from client_app.data.findings import Findings
from client_app.data.remembered import folder_stamp, remembered
from fedstrata.support.errors import UserError


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Return a folder that counts as old until it is touched, whatever the clock says."""
    monkeypatch.setattr(module, "YOUNG", -(10**18))
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "x").touch()
    for each in (tmp_path, tmp_path / "a", tmp_path / "a" / "b"):
        os.utime(each, (1, 1))
    return tmp_path


def test_an_equal_folder_is_listed_once_and_what_was_found_is_said_each_time(folder) -> None:
    calls = []

    def make(own: Findings, _: object) -> int:
        calls.append(1)
        own.leave_out("suffix", "x.txt", 2)
        own.note("noted")
        return len(calls)

    for _ in range(3):
        found = Findings()
        assert remembered((folder, "key"), folder, found, make) == 1
        assert found.left_out == {"suffix": 2}
        assert found.lines() == ["noted", "left out, suffix: 2 (x.txt, ...)"]
    assert remembered((folder, "other"), folder, Findings(), make) == 2
    (folder / "a" / "y").touch()
    os.utime(folder / "a", (2, 2))
    assert remembered((folder, "key"), folder, Findings(), make) == 3


def test_a_folder_that_just_changed_is_not_kept(folder, monkeypatch) -> None:
    calls = []
    monkeypatch.setattr(module, "YOUNG", 10**12)
    (folder / "a" / "b" / "new").touch()
    for _ in range(2):
        remembered((folder, "young"), folder, Findings(), lambda *_: calls.append(1))
    assert len(calls) == 2


def test_what_was_found_before_an_error_is_said(folder) -> None:
    def make(own: Findings, _: object) -> None:
        own.leave_out("hidden", ".x")
        raise UserError("wrong")

    found = Findings()
    with pytest.raises(UserError, match="wrong"):
        remembered((folder, "wrong"), folder, found, make)
    assert found.left_out == {"hidden": 1}


def test_few_listings_are_kept(folder) -> None:
    for number in range(module.MOST + 3):
        remembered((folder, number), folder, Findings(), lambda *_: None)
    assert len(module._kept) <= module.MOST


def test_links_are_not_followed(folder) -> None:
    (folder / "a" / "circle").symlink_to(folder)
    assert len(folder_stamp(folder)) == 3
