"""As whom the app runs: a user that exists, is not root, and is not the guard's own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fedstrata.support.errors import UserError
from site_guard import app_user
from site_guard.app_user import AppUser, own_user, read_user, refuse_without_capabilities


def test_a_user_is_named_or_given_by_numbers() -> None:
    assert read_user("1234:5678", "here") == AppUser("1234:5678", 1234, 5678, (5678,))
    nobody = read_user("nobody", "here")
    assert nobody.uid > 0
    assert nobody.gid in nobody.groups


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("no-such-user", "this machine has no user 'no-such-user'"),
        ("1000", "this machine has no user '1000'"),
        ("", "this machine has no user ''"),
        ("a\0b", "this machine has no user"),
        ("root", "must not run as root"),
        ("0:5", "must not run as root"),
        ("5:0", "must not run as root"),
    ],
)
def test_other_users_are_refused(text: str, reason: str) -> None:
    with pytest.raises(UserError, match=f"here: .*{reason}"):
        read_user(text, "here")


def test_the_guards_own_user_is_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1234)
    with pytest.raises(UserError, match="the user of this process itself"):
        read_user("1234:1234", "here")


def test_missing_capabilities_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app_user, "missing_capabilities", lambda: ["CAP_KILL", "CAP_SETUID"])
    with pytest.raises(UserError, match="needs CAP_KILL, CAP_SETUID: start"):
        refuse_without_capabilities("here")
    monkeypatch.setattr(app_user, "missing_capabilities", list)
    refuse_without_capabilities("here")


def test_modes_say_what_a_user_may_write(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    status = file.stat()
    owner = AppUser("a", status.st_uid, -1, ())
    member = AppUser("b", -1, status.st_gid, (status.st_gid,))
    other = AppUser("c", -1, -1, ())
    for mode, expected in ((0o200, owner), (0o020, member), (0o002, other)):
        file.chmod(mode)
        assert [user for user in (owner, member, other) if user.may_write(file)] == [expected]
    assert not owner.may_write(tmp_path / "missing")


def test_the_own_user_is_who_runs_this() -> None:
    assert (own_user().uid, own_user().gid) == (os.geteuid(), os.getegid())
