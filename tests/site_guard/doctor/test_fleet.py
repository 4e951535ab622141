"""What the Fleet API says of clock and key, by Flower's own check of them."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import flwr.client.grpc_rere_client.node_auth_client_interceptor as signing
import pytest
from flwr.common import now
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

from site_guard.doctor.certificates import read_node_key
from site_guard.doctor.checks import OK, PROBLEM, UNKNOWN, Check
from site_guard.doctor.fleet import check_fleet
from site_guard.doctor.network import Server
from site_guard.keys import make_keys
from tests.helpers.fleet import Registered, closed_port, fleet


@pytest.fixture
def key(tmp_path: Path) -> Path:
    make_keys(tmp_path / "keys", "a")
    return tmp_path / "keys" / "supernode.key"


def public_bytes(key: Path) -> bytes:
    read = read_node_key(key)
    assert read is not None
    return public_key_to_bytes(read.public_key())


def found(port: int, key: Path | None) -> dict[str, Check]:
    server = Server("127.0.0.1", port, None, key, 5.0)
    return {check.name: check for check in check_fleet(server)}


@pytest.mark.parametrize("minutes", [-10, 10])
def test_a_wrong_clock(key: Path, monkeypatch: pytest.MonkeyPatch, minutes: int) -> None:
    monkeypatch.setattr(signing, "now", lambda: now() + timedelta(minutes=minutes))
    with fleet(None) as port:
        check = found(port, key)["clock"]
    assert check.state == PROBLEM
    assert "timedatectl set-ntp true" in check.mend


def test_a_right_clock(key: Path) -> None:
    with fleet(None) as port:
        assert found(port, key)["clock"].state == OK


def test_without_a_key_the_clock_cannot_be_compared() -> None:
    with fleet(None) as port:
        checks = found(port, None)
    assert checks["Fleet API"].state == OK
    assert checks["clock"].state == UNKNOWN


@pytest.mark.parametrize("before", ["registered", "online", "offline"])
def test_a_registered_key_is_known_and_its_node_stays_as_it_is(key: Path, before: str) -> None:
    known = Registered()
    node = known.add(public_bytes(key))
    if before != "registered":
        assert known.state.activate_node(node, 30)
    if before == "offline":
        assert known.state.deactivate_node(node)
    with fleet(None, registered=known) as port:
        checks = found(port, key)
    assert checks["registration"].state == OK
    assert checks["clock"].state == OK
    assert known.status(node) == before


def test_a_key_that_is_not_registered_is_sent_to_the_coordinator(key: Path) -> None:
    known = Registered()
    with fleet(None, registered=known) as port:
        check = found(port, key)["registration"]
    assert check.state == PROBLEM
    assert str(key.with_suffix(".pub")) in check.mend


def test_a_key_that_was_unregistered_is_not_registered(key: Path) -> None:
    known = Registered()
    node = known.add(public_bytes(key))
    known.state.delete_node("coordinator", node)
    with fleet(None, registered=known) as port:
        assert "was unregistered" in found(port, key)["registration"].text


def test_a_server_of_another_flower_leaves_it_open(key: Path) -> None:
    with fleet(None) as port:  # without Flower's own answer to the second request
        check = found(port, key)["registration"]
    assert check.state == UNKNOWN
    assert "ask the coordinator" in check.mend


def test_a_server_that_asks_for_no_key(key: Path) -> None:
    with fleet(None, authenticates=False) as port:
        assert "--enable-supernode-auth" in found(port, key)["Fleet API"].mend


def test_another_api_on_that_port(key: Path) -> None:
    with fleet(None, authenticates=False, is_fleet=False) as port:
        assert "is not the Fleet API" in found(port, key)["Fleet API"].text


def test_nobody_on_that_port(key: Path) -> None:
    check = found(closed_port(), key)["Fleet API"]
    assert check.state == PROBLEM
    assert "no_proxy=127.0.0.1" in check.mend
