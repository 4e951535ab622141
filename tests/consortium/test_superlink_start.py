"""A SuperLink is started closed: its database to other users, its Control port to other networks."""

from __future__ import annotations

import os
import sqlite3
import stat
import sys
from pathlib import Path
from types import ModuleType

import pytest
from flwr.server import app
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.superlink.federation import NoOpFederationManager

from consortium import superlink_start
from consortium.object_files import ObjectFiles
from consortium.superlink_start import (
    Start,
    become,
    check_address,
    prepare_state,
    put_layers_in_files,
)
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


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What Flower's SuperLink was started with; nothing of this process is changed for good."""
    words: list[list[str]] = []
    monkeypatch.setattr(app, "run_superlink", lambda: words.append(list(sys.argv)))
    monkeypatch.setattr(app, "ObjectStoreFactory", ObjectStoreFactory)
    monkeypatch.setattr(sys, "argv", ["fedstrata", "superlink"])
    monkeypatch.setattr(superlink_start, "keep_freed_memory", lambda: True)
    return words


def test_it_becomes_flowers_program(started: list[list[str]]) -> None:
    become(["--insecure"])
    assert started == [["flower-superlink", "--insecure"]]


def test_its_layers_are_in_files(started: list[list[str]], tmp_path: Path) -> None:
    become(["--insecure"])
    manager = NoOpFederationManager()
    objects, _ = app._get_objectstore_linkstate_factories(str(tmp_path / "x.db"), manager)
    assert isinstance(objects.store(), ObjectFiles)


def test_another_flower_keeps_its_own_store_and_that_is_said() -> None:
    assert "1.31 alone, and 1.32.0 is installed" in put_layers_in_files(app, "1.32.0")
    assert "has no ObjectStoreFactory" in put_layers_in_files(ModuleType("app"), "1.31.0")
    assert app.ObjectStoreFactory is ObjectStoreFactory


def test_a_missing_flower_is_an_error_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flwr.server", None)
    with pytest.raises(UserError, match="install Flower"):
        become([])
