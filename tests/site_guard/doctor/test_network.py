"""Each way in which a site does not reach its server, made for real, and what the doctor says."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from fedstrata.support.errors import UserError
from site_guard.doctor import network
from site_guard.doctor.checks import OK, PROBLEM, Check
from site_guard.doctor.network import Server, check_network, proxy_of, read_address
from site_guard.keys import make_keys
from tests.helpers.fleet import DAY, Authority, closed_port, fleet, proxy

AUTHORITY = Authority("consortium")
HOST = "127.0.0.1"


@pytest.fixture
def key(tmp_path: Path) -> Path:
    make_keys(tmp_path / "keys", "a")
    return tmp_path / "keys" / "supernode.key"


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*network.PROXIES, *network.NO_PROXY):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return AUTHORITY.write(tmp_path / "ca.crt")


def found(
    port: int, root: Path | None, key: Path | None = None, host: str = HOST
) -> dict[str, Check]:
    return {check.name: check for check in check_network(Server(host, port, root, key, 5.0))}


def test_a_server_that_is_as_it_should_be(root: Path, key: Path) -> None:
    with fleet(AUTHORITY.server(HOST)) as port:
        checks = found(port, root, key)
    assert {name for name, check in checks.items() if check.state == OK} == {
        *("name", "proxy", "port", "TLS", "Fleet API", "clock"),
    }
    assert not [check for check in checks.values() if check.state == PROBLEM]


def test_a_name_that_is_not_known(root: Path) -> None:
    (check,) = found(9092, root, host="superlink.invalid").values()
    assert "is not known here" in check.text
    assert "getent hosts superlink.invalid" in check.mend


def test_a_closed_port(root: Path) -> None:
    checks = found(closed_port(), root)
    assert "Connection refused" in checks["port"].text
    assert "usually 9092" in checks["port"].mend
    assert "TLS" not in checks


def test_a_port_that_does_not_answer(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*_: object) -> None:
        raise TimeoutError

    monkeypatch.setattr(network.socket, "create_connection", lost)
    assert "let the firewall pass TCP" in found(9092, root)["port"].mend


@pytest.mark.parametrize(
    ("hosts", "begins", "ends", "said"),
    [
        ((HOST,), -9 * DAY, -DAY, "ran out on"),
        ((HOST,), DAY, 9 * DAY, "this machine's clock says"),
        ((HOST,), -DAY, 3 * DAY, "runs out in 2 days"),
        (("superlink.example",), -DAY, 90 * DAY, "is for superlink.example, and not for 127.0.0.1"),
    ],
    ids=["expired", "not yet", "soon", "another host"],
)
def test_a_certificate_that_is_wrong(
    root: Path, hosts: tuple[str, ...], begins: timedelta, ends: timedelta, said: str
) -> None:
    with fleet(AUTHORITY.server(*hosts, begins=begins, ends=ends)) as port:
        check = found(port, root)["TLS"]
    assert check.state == PROBLEM
    assert said in check.text


def test_a_certificate_of_another_authority(root: Path) -> None:
    with fleet(Authority("Hospital Firewall").server(HOST)) as port:
        check = found(port, root)["TLS"]
    assert "is by 'Hospital Firewall', and not by the authority" in check.text
    assert "let it pass" in check.mend


def test_a_server_without_tls(root: Path) -> None:
    with fleet(None) as port:
        check = found(port, root)["TLS"]
    assert "does not speak TLS" in check.text


def test_no_root_certificates(root: Path, key: Path) -> None:
    with fleet(None) as port:
        checks = found(port, None, key)
    assert "the way to the server is open" in checks["TLS"].text
    assert checks["Fleet API"].state == OK


def test_a_proxy_that_refuses(root: Path, key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with fleet(AUTHORITY.server(HOST)) as port, proxy("403 Forbidden") as through:
        monkeypatch.setenv("http_proxy", f"http://user:secret@{HOST}:{through}")
        check = found(port, root, key)["port"]
        assert "the proxy refuses: 'HTTP/1.1 403 Forbidden'" in check.text
        assert check.mend.endswith(f"export no_proxy={HOST}")
        assert "secret" not in check.text
        monkeypatch.setenv("no_proxy", HOST)
        assert found(port, root, key)["clock"].state == OK


def test_a_proxy_that_lets_pass(root: Path, key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with fleet(AUTHORITY.server(HOST)) as port, proxy("200 OK") as through:
        monkeypatch.setenv("https_proxy", f"http://{HOST}:{through}")
        checks = found(port, root, key)
    assert "through the proxy" in checks["port"].text
    assert checks["clock"].state == OK


def test_a_proxy_that_grpc_cannot_use(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", f"https://{HOST}:3128")
    assert "gRPC cannot use the proxy" in found(closed_port(), root)["proxy"].text


def test_which_proxy_grpc_takes() -> None:
    proxies = {"http_proxy": "http://b:1", "https_proxy": "http://a:1"}
    assert proxy_of("superlink.example", proxies) == "http://a:1"
    assert proxy_of("superlink.example", {**proxies, "no_proxy": "x, .example"}) == ""
    assert proxy_of("10.1.2.3", {**proxies, "no_proxy": "10.0.0.0/8"}) == ""
    assert proxy_of("10.1.2.3", {**proxies, "no_proxy": ""}) == "http://a:1"


@pytest.mark.parametrize("text", ["superlink", "superlink:", ":9092", "a:b", "a:70000"])
def test_an_address_has_a_host_and_a_port(text: str) -> None:
    with pytest.raises(UserError, match="HOST:PORT"):
        read_address(text)
    assert read_address("[::1]:9092") == ("::1", 9092)
