"""As whom the app runs: a user that exists, is not root, and is not the guard's own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from fedstrata.support.errors import UserError
from site_guard import app_user
from site_guard.app_user import AppUser, own_user, read_user, refuse_without_capabilities
from tests.helpers.confined import folder_for_all


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


# As the unit in deploy/systemd starts it: a user with three capabilities, and no way to more.
CAPABILITIES = "-all,+setuid,+setgid,+kill"
AS_THE_UNIT = [
    *("setpriv", "--reuid=20003", "--regid=20003", "--clear-groups", "--no-new-privs"),
    *(f"--{kind}={CAPABILITIES}" for kind in ("inh-caps", "ambient-caps", "bounding-set")),
]
# These tests' own Python may lie in a closed home: in a view of the files of their own it is open.
OPENED = """
mount --bind "$1" "$2" && mount -t tmpfs -o mode=755 tmpfs /root && mkdir -p "$1" \\
    && mount --bind "$2" "$1" || exit 77
shift 2; exec "$@"
"""
GUARD = """
import flwr.common.logger, os, sys
from pathlib import Path
from site_guard.guard import make_guard
from site_guard.own_process import adopt_orphans, close_memory
from tests.helpers.tiny_app import ask, bundle, settings
folder = Path(sys.argv[1])
assert close_memory() == adopt_orphans() == ""
guard = make_guard(settings(folder, threads=1, app_user="20001:20002"))
guard.process.adopts = True
content = bundle(folder / "guard" / "app")
assert ask(guard, content, "daemon").error == ""
lines = Path(f"/proc/{guard.process.process_id}/status").read_text().splitlines()
status = dict(line.split(":", 1) for line in lines)
print(*(status[name].split() for name in ("Uid", "Gid", "CapEff", "CapAmb", "NoNewPrivs")))
guard.process.stop()
print([p.name for p in Path("/proc").glob("[0-9]*") if p.exists() and p.stat().st_uid == 20001])
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become other users")
def test_a_guard_with_the_rights_of_the_unit_starts_and_ends_the_apps_user() -> None:
    base = sys.base_prefix
    with folder_for_all() as folder, tempfile.TemporaryDirectory() as beside:
        for name, owner in (("state", 20001), ("cache", 20001), ("guard", 20003)):
            (folder / name).mkdir(mode=0o700)
            os.chown(folder / name, owner, owner)
        command = [*AS_THE_UNIT, sys.executable, "-c", GUARD, str(folder)]
        if Path(base).is_relative_to("/root"):
            command = ["unshare", "-m", "sh", "-c", OPENED, "sh", base, beside, *command]
        done = subprocess.run(
            command,
            env=os.environ | {"HOME": str(folder / "guard"), "PYTHONDONTWRITEBYTECODE": "1"},
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode in (1, 77) and ("unshare" in done.stderr or "mount" in done.stderr):
        pytest.skip(f"Python lies in root's home, and no other view is allowed: {done.stderr}")
    user, group, none = ["20001"] * 4, ["20002"] * 4, ["0000000000000000"]
    expected = " ".join(map(str, (user, group, none, none, ["1"])))
    assert done.stdout.splitlines()[-2:] == [expected, "[]"], done.stderr
