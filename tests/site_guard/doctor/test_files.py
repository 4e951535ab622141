"""Data that does not open, folders that cannot be written, files that others reach."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from site_guard.app_user import AppUser, own_user
from site_guard.audit import SiteAudit
from site_guard.doctor import files
from site_guard.doctor.checks import OK, PROBLEM, UNKNOWN
from site_guard.doctor.files import (
    check_apart,
    check_audit,
    check_confinement,
    check_data,
    check_files,
    check_folder,
    check_settings_mode,
    check_user,
)
from site_guard.keys import make_keys
from site_guard.settings import Audit
from tests.helpers.tiny_app import settings


def test_data_that_is_missing_or_empty(tmp_path: Path) -> None:
    site = settings(tmp_path, data=str(tmp_path / "data"))
    assert "does not exist" in check_data(site).text
    (tmp_path / "data").mkdir()
    assert "is empty" in check_data(site).text
    (tmp_path / "data" / "scan.png").touch()
    assert check_data(site).text.endswith("opens: 1 entries")
    assert check_data(settings(tmp_path)).state == OK
    for name, content in (("empty.csv", ""), ("some.csv", "a,b")):
        (tmp_path / name).write_text(content)
    assert "is empty" in check_data(settings(tmp_path, data=str(tmp_path / "empty.csv"))).text
    assert check_data(settings(tmp_path, data=str(tmp_path / "some.csv"))).state == OK


def test_data_that_this_user_may_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(files.os, "scandir", forbidden)  # root, as who tests may run, reads all
    check = check_data(settings(tmp_path, data=str(tmp_path)))
    assert (check.state, "setfacl" in check.mend) == (PROBLEM, True)
    check = check_data(settings(tmp_path, data=str(tmp_path), app_user="nobody"))
    assert (check.state, check.mend) == (UNKNOWN, f"sudo -u nobody ls {tmp_path}")


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert check_folder("state", tmp_path / "state", own_user()).state == PROBLEM


def test_a_folder_below_a_file_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "may not write" in check_folder("cache", tmp_path / "file" / "cache", own_user()).text


def test_a_state_that_others_reach(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state").chmod(0o755)
    check = check_folder("state", tmp_path / "state", own_user())
    assert (check.state, check.mend) == (PROBLEM, f"chmod 700 {tmp_path}/state")
    (tmp_path / "state").chmod(0o700)
    assert check_folder("state", tmp_path / "state", own_user()).state == OK


def test_rules_that_others_can_write(tmp_path: Path) -> None:
    path = tmp_path / "site.yaml"
    assert check_settings_mode(path).state == UNKNOWN
    path.touch(0o644)
    assert check_settings_mode(path).state == OK
    path.chmod(0o666)
    assert check_settings_mode(path).mend == f"chmod go-w {path}"


def test_a_folder_that_the_apps_user_cannot_write(tmp_path: Path) -> None:
    app = AppUser("app", 4321, 4321, (4321,))
    (tmp_path / "state").mkdir(0o700)
    check = check_folder("state", tmp_path / "state", app)
    assert "user app may not write" in check.text
    assert check.mend == f"install -d -m 700 -o 4321 {tmp_path}/state"


def test_a_key_that_the_apps_user_can_read(tmp_path: Path) -> None:
    key = tmp_path / "supernode.key"
    assert check_apart(key, settings(tmp_path)).state == UNKNOWN  # there is none
    key.touch(0o600)
    assert "can read the SuperNode's key" in check_apart(key, settings(tmp_path)).text
    apart = settings(tmp_path, app_user="4321:4321")
    assert check_apart(key, apart).state == OK
    group = settings(tmp_path, app_user=f"4321:{os.getgid() or 5}")
    if os.geteuid() == 0:
        os.chown(key, 0, 5)
    assert check_apart(key, group).state == OK
    key.chmod(0o640)
    assert check_apart(key, group).state == PROBLEM
    assert check_apart(key, settings(tmp_path, app_user="0:0")).state == UNKNOWN


def test_an_app_that_runs_as_root_or_as_nobody_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "own_user", lambda: AppUser("root", 0, 0, (0,)))
    assert "would run as root" in check_user(settings(tmp_path)).text
    assert check_user(settings(tmp_path, app_user="4321:4321")).state == OK
    unknown = settings(tmp_path, app_user="nobody-of-this-name")
    assert check_user(unknown).state == PROBLEM
    assert list(check_confinement(unknown)) == []
    found = [check.name for check in check_files(tmp_path / "site.yaml", unknown)]
    assert "state" not in found


def test_protections_that_are_not_in_force(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (check, *_) = check_confinement(settings(tmp_path, network="keep"))
    assert "KEEPS THE NETWORK" in check.text
    monkeypatch.setattr(files.Confinement, "weaknesses", lambda _: [])
    assert [check.state for check in check_confinement(settings(tmp_path))] == [OK]


def test_an_audit_log_without_a_key_and_one_that_was_changed(tmp_path: Path) -> None:
    (unsigned, log) = check_audit(settings(tmp_path))
    assert unsigned.state == PROBLEM
    assert log.state == OK
    make_keys(tmp_path / "keys", "a")
    site = settings(tmp_path, audit=Audit(key=str(tmp_path / "keys" / "audit.key")))
    SiteAudit(site).started()
    assert [check.state for check in check_audit(site)] == [OK, OK]
    site.audit_log.write_text(site.audit_log.read_text().replace("start", "stop!"))
    assert "is not as it was signed" in list(check_audit(site))[-1].text
    (tmp_path / "keys" / "audit.key").write_text("nothing")
    assert "no Ed25519 key" in list(check_audit(site))[-1].text


def test_models_that_are_not_there(tmp_path: Path) -> None:
    site = settings(tmp_path, models=str(tmp_path / "models"))
    found = {check.name for check in check_files(tmp_path / "site.yaml", site)}
    assert "models" in found
