"""A local SuperLink of another user, or with other settings than the caller's, is mentioned."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path

import pytest
from flwr.app import Context, RecordDict
from flwr.serverapp import Grid
from flwr.superlink.grid.grpc_grid import GrpcGrid
from flwr.superlink.grid.inmemory_grid import InMemoryGrid

from fedstrata.support.errors import UserError
from server_app import app, superlink_owner
from server_app.superlink_owner import (
    Socket,
    SuperLink,
    callers_of,
    describe,
    differences,
    find_superlink,
    free_port,
    notices,
    parse,
    settings,
    warn_of_other_owner,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

ROOT = Path(__file__).resolve().parents[2]
# Lines as Linux writes them: a listener, the caller's end of a connection, and the SuperLink's.
HEADER = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n"
REST = "00000000:00000000 00:00000000 00000000 "
LOCAL = "0000000000000000FFFF00000100007F"
TABLE = (
    f"{HEADER}   1: {LOCAL}:BB3B {'0' * 32}:0000 0A {REST} 1000        0 57852 1 0 100\n"
    f"   3: {LOCAL}:A6EC {LOCAL}:BB3B 01 {REST} 1001        0 56967 1 0 20\n"
    f"   5: {LOCAL}:BB3B {LOCAL}:A6EC 01 {REST} 1000        0 57859 1 0 21\n"
)
LOCALHOST = ip_address("127.0.0.1")
CALLER = Socket("01", 0xA6EC, 0xBB3B, LOCALHOST, 1001, 56967)
ADDRESS = ["--control-api-address", "127.0.0.1:39093"]
COMMAND = ["/venv/bin/python", "/venv/bin/flower-superlink", "--simulation"]
CLIENT = (
    "import os, socket, sys\n"
    "os.setuid(int(sys.argv[3]))\n"
    "connection = socket.socket()\n"
    "connection.connect(('127.0.0.1', int(sys.argv[2])))\n"
    "print('connected', flush=True)\n"
    "sys.stdin.read()\n"
)
# Says what its parent, with the command line of a SuperLink, lets `flwr run` find.
SERVER_APP = (
    "import json\n"
    "from server_app import superlink_owner\n"
    "said = []\n"
    "superlink_owner.logger.warning = lambda text, line: said.append(text % line)\n"
    "superlink_owner.warn_of_other_owner()\n"
    "print(json.dumps(said))\n"
)
PARENT = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[4]], check=True)"


@pytest.fixture
def port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


@contextmanager
def connected(
    port: int, word: str = "run", uid: int = os.getuid(), python: str = sys.executable, **more: str
) -> Iterator[int]:
    """Connect to ``port`` from a process like `flwr run` with ``more`` variables; give its id."""
    with subprocess.Popen(
        [python, "-c", CLIENT, word, str(port), str(uid)],
        env=os.environ | more,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "connected\n"
        try:
            yield process.pid
        finally:
            process.communicate("")


def said_of(port: int) -> list[str]:
    tables = [Path("/proc/net", name).read_text() for name in ("tcp", "tcp6")]
    return describe(SuperLink(4711, port), [found for table in tables for found in parse(table)])


def test_a_line_of_the_table_is_read_as_a_socket() -> None:
    assert parse(TABLE)[1] == CALLER
    assert parse(HEADER) == []


@pytest.mark.skipif(sys.byteorder != "little", reason="the table is a little-endian machine's")
@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("0100007F", "127.0.0.1"),
        (LOCAL, "127.0.0.1"),
        ("00000000000000000000000001000000", "::1"),
        ("0200000A", "10.0.0.2"),
    ],
)
def test_an_address_is_read_from_its_words(text: str, address: str) -> None:
    table = TABLE.replace(f"{LOCAL}:BB3B 01", f"{text}:BB3B 01")
    assert parse(table)[1].remote_host == ip_address(address)


def test_only_the_far_ends_of_connections_to_the_port_are_callers() -> None:
    elsewhere = Socket("01", 0xA6ED, 0xBB3B, ip_address("10.0.0.2"), 1001, 1)
    closing = Socket("06", 0xA6EE, 0xBB3B, LOCALHOST, 0, 0)
    assert callers_of(0xBB3B, [*parse(TABLE), elsewhere, closing]) == [CALLER]
    assert callers_of(39093, parse(TABLE)) == []


@pytest.mark.parametrize(
    ("port", "taken", "proposed"),
    [(39093, [], 39193), (39093, [39193, 39194], 39195), (65500, [1024], 1025)],
)
def test_the_proposed_port_is_one_on_which_nobody_listens(
    port: int, taken: list[int], proposed: int
) -> None:
    sockets = [Socket("0A", each, 0, ip_address("0.0.0.0"), 0, 1) for each in taken]
    assert free_port(port, sockets) == proposed


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([*COMMAND, *ADDRESS], SuperLink(2, 39093)),
        ([*COMMAND[1:], *ADDRESS], SuperLink(2, 39093)),
        ([*COMMAND, ADDRESS[0], "0.0.0.0:9093"], None),
        (COMMAND, None),
        (["tail", "-f", "flower-superlink", *ADDRESS], None),
    ],
    ids=["by its script", "frozen", "for other machines", "default address", "only named"],
)
def test_the_superlink_is_a_parent_that_flwr_run_can_have_started(
    words: list[str], expected: SuperLink | None
) -> None:
    assert find_superlink([(3, ["flwr-simulation"]), (2, words)]) == expected


def test_only_values_known_of_both_differ() -> None:
    ours = {"packages": "/a", "HOME": "/home/a", "FLWR_HOME": "/f"}
    assert differences(ours, {"HOME": "/home/b", "FLWR_HOME": "/f"}) == {
        "HOME": ("/home/a", "/home/b")
    }


def test_folders_that_are_not_set_are_in_the_home() -> None:
    assert settings({"HOME": "/h", "FLWR_HOME": ""}, None) == {
        "HOME": "/h",
        "FLWR_HOME": "/h/.flwr",
        "FEDSTRATA_HOME": "/h/.fedstrata",
    }
    assert settings({"HOME": "/h", "FLWR_HOME": "/f", "FEDSTRATA_HOME": "/s/"}, None) == {
        "HOME": "/h",
        "FLWR_HOME": "/f",
        "FEDSTRATA_HOME": "/s",
    }


def test_the_packages_are_those_of_the_python() -> None:
    found = settings(os.environ, Path(sys.executable))["packages"]
    assert found == str(Path(sys.prefix).resolve())


def test_a_caller_with_the_same_settings_is_not_mentioned(port: int) -> None:
    with connected(port):
        assert said_of(port) == []


@pytest.mark.parametrize("name", ["HOME", "FLWR_HOME", "FEDSTRATA_HOME"])
def test_a_caller_with_another_folder_is_mentioned(
    port: int, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for each in ("HOME", "FLWR_HOME", "FEDSTRATA_HOME"):
        monkeypatch.setenv(each, "/ours")
    with connected(port, **{name: str(tmp_path)}) as process:
        first, second, third = said_of(port)
    assert f"port {port} was started with other settings" in first
    assert f"process {process}" in first
    assert second == f"runs on it use {name} /ours, not {tmp_path}"
    assert "process 4711" in third
    assert f"FLWR_LOCAL_CONTROL_API_PORT={port + 100}" in third


def test_a_caller_with_other_packages_is_mentioned(port: int, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "pyvenv.cfg").write_text(f"home = {Path(sys.executable).resolve().parent}\n")
    python = tmp_path / "bin" / "python"
    python.symlink_to(Path(sys.executable).resolve())
    with connected(port, python=str(python)):
        said = said_of(port)
    ours = Path(sys.prefix).resolve()
    assert said[1] == f"runs on it use packages {ours}, not {tmp_path.resolve()}"


def test_a_reader_of_logs_is_not_mentioned(port: int, tmp_path: Path) -> None:
    with connected(port, word="log", FLWR_HOME=str(tmp_path)):
        assert said_of(port) == []


@pytest.mark.skipif(os.getuid() != 0, reason="only root starts processes of other users")
def test_another_user_is_mentioned(port: int) -> None:
    with connected(port, uid=65534):
        said = said_of(port)
    name = superlink_owner.user_name(65534)
    assert f"port {port} belongs to user root, and user {name} uses it" in said[0]
    assert f"what belongs to root: packages {Path(sys.prefix).resolve()}, HOME " in said[1]
    assert f"for a SuperLink of {name}: FLWR_LOCAL_CONTROL_API_PORT={port + 100}" in said[2]


def test_the_superlink_is_found_from_below_it(port: int, tmp_path: Path) -> None:
    superlink = tmp_path / "flower-superlink"
    superlink.write_text(PARENT)
    command = [sys.executable, str(superlink), ADDRESS[0], f"127.0.0.1:{port}", "-", SERVER_APP]
    with connected(port, FLWR_HOME=str(tmp_path)):
        said = json.loads(
            subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout
        )
    assert f"the SuperLink on port {port} was started with other settings" in said[0]
    assert all(line.startswith("fedstrata: ") for line in said)


def test_nothing_is_said_without_a_superlink() -> None:
    assert notices() == []


@pytest.mark.parametrize("error", [OSError, ValueError, IndexError])
def test_what_cannot_be_read_costs_no_run(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(process: int) -> None:
        raise error("unreadable")

    monkeypatch.setattr(superlink_owner, "ancestors", fails)
    with pytest.raises(error):
        notices()
    warn_of_other_owner()


@pytest.mark.parametrize(("grid", "asked"), [(InMemoryGrid, 1), (GrpcGrid, 0)])
def test_only_a_simulation_asks_for_the_owner(
    grid: type[Grid], asked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[None] = []
    monkeypatch.setattr(app, "warn_of_other_owner", lambda: calls.append(None))
    mistake = Context(1, 1, {}, RecordDict(), {"output-dir": "relative"})
    with pytest.raises(UserError, match="absolute"):
        app.main(grid.__new__(grid), mistake)
    assert len(calls) == asked
