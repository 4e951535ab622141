"""What site.yaml leaves to the app's process, and what the log says where that is too much."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fedstrata.support.errors import UserError
from site_guard import confinement, landlock
from site_guard.app_user import AppUser
from site_guard.confinement import Confinement, make_confinement
from site_guard.settings import Audit, Limits
from tests.helpers.tiny_app import settings


def order(made: Confinement) -> dict[str, Any]:
    """Return what the launcher is told."""
    found: dict[str, Any] = json.loads(made.command(["python"], 5)[-1])
    return found


def test_the_sites_folders_are_what_is_left(tmp_path: Path) -> None:
    made = make_confinement(settings(tmp_path, data="/data", models="/models"))
    assert made.read == (Path("/data"), Path("/models"))
    assert made.write == (tmp_path / "state", tmp_path / "cache")
    assert made.temporary == tmp_path / "cache" / "tmp" / "a"
    assert made.bundles == tmp_path / "cache" / "bundles" / "a"
    assert (made.user, made.network) == (None, False)
    assert order(made)["filter"] is not None


def test_another_user_gets_a_bundle_that_it_cannot_replace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(confinement, "refuse_without_capabilities", lambda _: None)
    made = make_confinement(settings(tmp_path, app_user="1234:1234"))
    try:
        assert not made.bundles.is_relative_to(tmp_path / "cache")
        assert made.bundles.stat().st_mode & 0o777 == 0o711
        assert order(made)["user"] == {"uid": 1234, "gid": 1234, "groups": [1234]}
        assert order(made)["limits"]["RLIMIT_NPROC"] == 2048
    finally:
        made.bundles.rmdir()


@pytest.mark.parametrize("inside", ["state", "cache"])
def test_the_guards_folder_is_none_of_the_apps(tmp_path: Path, inside: str) -> None:
    (tmp_path / "link").symlink_to(tmp_path / inside)
    for folder in (tmp_path / inside / "guard", tmp_path / "link" / "guard"):
        with pytest.raises(UserError, match="where the app may write"):
            make_confinement(settings(tmp_path, guard=str(folder)))
    audit = Audit(log=str(tmp_path / inside / "audit.jsonl"))
    with pytest.raises(UserError, match=r"audit\.log: .* lies in"):
        make_confinement(settings(tmp_path, audit=audit))
    assert make_confinement(settings(tmp_path, guard=str(tmp_path / "guard")))


def test_limits_are_in_bytes_and_counts(tmp_path: Path) -> None:
    limits = Limits(memory_gb=2.0, processes=100, open_files=500)
    assert order(make_confinement(settings(tmp_path, limits=limits)))["limits"] == {
        "RLIMIT_CORE": 0,
        "RLIMIT_NOFILE": 500,
        "RLIMIT_DATA": 2_000_000_000,
        "RLIMIT_NPROC": 100,
    }


def test_without_a_filter_nothing_is_started_unless_the_network_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.uname", lambda: type("Uname", (), {"machine": "riscv64"}))
    with pytest.raises(UserError, match=r"no filter for .*'riscv64'.*`network: keep`"):
        order(make_confinement(settings(tmp_path)))
    kept = make_confinement(settings(tmp_path, network="keep"))
    assert order(kept)["filter"] is None
    assert "KEEPS THE NETWORK" in " ".join(kept.weaknesses())


def test_no_secret_and_no_folder_of_the_guard_is_in_the_environment(tmp_path: Path) -> None:
    made = make_confinement(settings(tmp_path))
    given = {
        "PATH": "/bin",
        "CUDA_VISIBLE_DEVICES": "0",
        "HOME": "/home/guard",
        "FLWR_HOME": "/home/guard/.flwr",
        "DB_PASSWORD": "x",
        "https_proxy": "http://user:word@proxy",
        "MY_TOKEN": "x",
    }
    assert made.environment(given) == {
        "PATH": "/bin",
        "CUDA_VISIBLE_DEVICES": "0",
        "HOME": str(made.temporary),
        "TMPDIR": str(made.temporary),
        "FEDSTRATA_HOME": "/home/guard/.fedstrata",
    }


def test_each_weakness_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_confinement(settings(tmp_path))
    monkeypatch.setattr(landlock, "kernel_version", lambda: landlock.COMPLETE)
    (own,) = made.weaknesses()
    assert own.startswith("the app's process runs as this process's own user, ")
    monkeypatch.setattr(landlock, "kernel_version", lambda: 2)
    assert "can signal other processes" in made.weaknesses()[1]
    monkeypatch.setattr(landlock, "kernel_version", lambda: 0)
    assert "Landlock is not in force" in made.weaknesses()[1]
    other = Confinement(tmp_path, tmp_path, user=AppUser("app", 20001, 20001, ()))
    monkeypatch.setattr(confinement, "_code", lambda: [tmp_path / "code"])
    assert len(other.weaknesses()) == 1
    (tmp_path / "code").write_text("")
    (tmp_path / "code").chmod(0o646)
    assert f"can change {tmp_path / 'code'}" in other.weaknesses()[1]
