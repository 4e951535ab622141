"""A run's own SuperLink: its environment is its own; tests/system starts one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fedstrata.cli import own_superlink
from fedstrata.cli.own_superlink import OwnSuperLink, environment, free_port
from fedstrata.support.errors import UserError
from fedstrata.support.said_lines import VARIABLE


def test_its_home_is_its_own_and_no_proxy_is_asked(tmp_path: Path) -> None:
    made = environment(
        {"FLWR_HOME": "/home/me/.flwr", "no_proxy": "example.org", "PATH": "/bin"},
        tmp_path,
        tmp_path / "said",
    )
    assert made["FLWR_HOME"] == str(tmp_path)
    assert made[VARIABLE] == str(tmp_path / "said")
    assert made["no_proxy"] == "example.org,localhost,127.0.0.1"
    assert made["PATH"].split(":") == [str(Path(sys.executable).parent), "/bin"]


def test_free_ports_differ_while_they_are_used() -> None:
    assert 1024 < free_port() < 65536


def test_a_superlink_that_does_not_start_is_an_error_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    homes: list[Path] = []

    def home(prefix: str) -> str:
        homes.append(tmp_path / f"{prefix}home")
        homes[-1].mkdir()
        return str(homes[-1])

    monkeypatch.setattr("tempfile.mkdtemp", home)
    monkeypatch.setattr("shutil.which", lambda *_, **__: "/bin/false")
    with (
        (tmp_path / "log").open("wb") as log,
        pytest.raises(UserError, match="did not start"),
        OwnSuperLink(log),
    ):
        raise AssertionError
    assert [home.exists() for home in homes] == [False]


def test_what_it_started_ends_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []

    def start(superlink: OwnSuperLink) -> None:
        variables = environment({}, superlink.home, superlink.said)
        code = "import time; time.sleep(600)"
        started.append(
            subprocess.Popen([sys.executable, "-c", code], env=variables, start_new_session=True)
        )

    monkeypatch.setattr(OwnSuperLink, "_start", start)
    with (tmp_path / "log").open("wb") as log, OwnSuperLink(log) as superlink:
        assert started[0].poll() is None
        assert superlink.status(1) == "finished:failed"  # it has no process of its own here
    assert started[0].wait(5) != 0
    assert not superlink.home.exists()


def test_the_watchman_ends_all_when_its_command_is_gone(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    variables = environment({}, home, home / "said")
    sleeping = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(600)"], env=variables
    )
    watchman = subprocess.Popen(
        [sys.executable, "-m", own_superlink.__name__, str(home)], stdin=subprocess.PIPE
    )
    assert sleeping.poll() is None
    watchman.communicate(timeout=60)  # closes its input, as the end of a command does
    assert sleeping.wait(5) != 0
    assert not home.exists()
