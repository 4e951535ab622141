"""A SuperLink is started closed: its database to other users, its Control port to other networks."""

from __future__ import annotations

import os
import sqlite3
import stat
from pathlib import Path

import pytest

from consortium import superlink_start
from consortium.superlink_start import Start, become, check_address, prepare_state
from fedstrata.support.errors import UserError

KEYS = Path("/srv/consortium/superlink")


def option(command: list[str], name: str) -> str:
    return command[command.index(name) + 1]


def test_by_default_only_this_machine_reaches_the_ports_that_run_code() -> None:
    command = Start(KEYS, Path("/srv/link")).command()
    for name in ("--control-api-address", "--serverappio-api-address"):
        assert option(command, name).startswith("127.0.0.1:")
    assert option(command, "--isolation") == "process"
    assert option(command, "--superexec-auth-secret-file") == str(KEYS / "appio.secret")
    assert option(command, "--ssl-keyfile") == str(KEYS / "server.key")
    assert "--enable-supernode-auth" in command


@pytest.mark.parametrize("address", ["0.0.0.0:9093", "[::]:9093", ":9093", "0:0:0::0:9093"])
def test_a_port_that_runs_code_is_not_opened_on_all_networks(address: str) -> None:
    for start in (Start(KEYS, KEYS, control=address), Start(KEYS, KEYS, appio=address)):
        with pytest.raises(UserError, match="runs code here"):
            start.command()


@pytest.mark.parametrize("address", ["10.0.0.2:9093", "[fd00::2]:9093", "operator.example:9093"])
def test_the_operators_network_is_another_matter(address: str) -> None:
    check_address("--control-api-address", address)


def test_what_one_user_means_is_said() -> None:
    apart, together = (
        " ".join(Start(KEYS, KEYS, isolation=mode).notices()) for mode in ("process", "subprocess")
    )
    assert "as another user than this one" in apart
    assert "can read the server's key" in together
    assert "no TLS and no keys" in " ".join(Start(None, KEYS).notices())
    assert "no TLS" not in apart


@pytest.mark.parametrize("umask", [0o000, 0o022])
def test_the_database_is_its_owners_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    state = tmp_path / "state"
    before = os.umask(umask)
    try:
        state.mkdir()
        (state / "superlink.db-wal").write_text("")
        prepare_state(state)
        with sqlite3.connect(state / "superlink.db") as database:
            database.execute("create table t (x)")
    finally:
        os.umask(before)
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    for path in state.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_a_folder_that_cannot_be_made_is_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    before = os.umask(0o022)
    try:
        with pytest.raises(UserError, match="file/state"):
            prepare_state(tmp_path / "file" / "state")
    finally:
        os.umask(before)


def test_it_becomes_flowers_program(monkeypatch: pytest.MonkeyPatch) -> None:
    became: list[list[str]] = []
    monkeypatch.setattr(superlink_start.os, "execv", lambda _, words: became.append(words))
    become(["--insecure"])
    assert [[Path(words[0]).name, *words[1:]] for words in became] == [
        ["flower-superlink", "--insecure"]
    ]


def test_a_missing_program_is_an_error_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(superlink_start.sys, "executable", str(tmp_path / "python"))
    with pytest.raises(UserError, match="install Flower"):
        become([])
