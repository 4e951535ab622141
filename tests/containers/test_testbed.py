"""The testbed in real containers: from nothing to a result, and nobody reaches what is not theirs.

Needs a Docker engine with compose: `pytest -m containers` (some ten minutes, most of it the image;
the faults of `test_under_faults.py` as long again).
"""

from __future__ import annotations

import ipaddress
import json
import subprocess
from typing import Any

import pytest

from tests.containers.testbed import APP_USER, COMPOSE, SMALL, compose, docker, inside, testbed

PROBE = """
import socket, sys
for address in sys.argv[1:]:
    host, port = address.rsplit(":", 1)
    try:
        socket.create_connection((host, int(port)), 2)
        print(address, "reached")
    except OSError:
        print(address, "not")
"""
SERVICES = [f"{hospital}-{part}" for hospital in "abc" for part in ("node", "app")]
SERVICES += ["superlink", "serverapp"]
RIGHTS = ["KILL", "SETGID", "SETUID"]  # of a hospital's own process: to start the app, and end it
USERS = """
import pathlib
for status in pathlib.Path("/proc").glob("[0-9]*/status"):
    try:
        rows = dict(row.split(":", 1) for row in status.read_text().splitlines())
    except OSError:
        continue
    print(rows["Uid"].split()[1], rows["CapEff"].strip(), rows["NoNewPrivs"].strip())
"""
pytestmark = [pytest.mark.containers, pytest.mark.timeout(1800)]


def test_one_command_leads_to_a_result(results: dict[str, Any]) -> None:
    took_part = {f"hospital-{name}": ["took part"] * 3 for name in "abc"}
    assert results["participation"] == took_part
    assert results["final"]["mean"]["accuracy"] > 0


def reached(service: str, *addresses: str) -> list[str]:
    said = inside(service, "python", "-c", PROBE, *addresses)
    return [line.split()[0] for line in said.splitlines() if line.endswith(" reached")]


def address(service: str, network: str) -> str:
    found = json.loads(docker("inspect", f"fedstrata-{service}-1"))[0]
    return str(found["NetworkSettings"]["Networks"][f"fedstrata_{network}"]["IPAddress"])


def gateway(network: str) -> str:
    """Return the address that this machine has on a network's bridge."""
    (network_state,) = json.loads(docker("network", "inspect", f"fedstrata_{network}"))
    return str(ipaddress.ip_network(network_state["IPAM"]["Config"][0]["Subnet"])[1])


def test_a_hospital_reaches_the_fleet_port_and_nothing_else(results: dict[str, Any]) -> None:
    server, neighbour = address("superlink", "line-a"), address("b-node", "line-b")
    tried = [f"{server}:{port}" for port in (9091, 9092, 9093)]
    tried += ["198.18.250.2:9093", f"{neighbour}:9094", "b-node:9094", "b-app:9094"]
    assert reached("a-node", "superlink:9092", *tried) == ["superlink:9092", f"{server}:9092"]


def test_a_nodes_port_is_open_inside_alone(results: dict[str, Any]) -> None:
    line, inner = address("a-node", "line-a"), address("a-node", "inside-a")
    assert reached("superlink", f"{line}:9094", f"{inner}:9094") == []
    assert reached("a-app", f"{inner}:9094") == [f"{inner}:9094"]


def test_the_process_with_the_data_reaches_its_node_alone(results: dict[str, Any]) -> None:
    server = address("superlink", "line-a")
    tried = ["superlink:9092", f"{server}:9092", "198.18.250.2:9093", "b-node:9094", "b-app:9094"]
    tried += [f"{gateway('inside-a')}:{port}" for port in (9091, 9092, 9093, 9094)]
    assert reached("a-app", "a-node:9094", *tried) == ["a-node:9094"]


@pytest.mark.parametrize("service", SERVICES)
def test_no_container_has_more_rights_than_it_needs_or_can_write_to_its_image(
    results: dict[str, Any], service: str
) -> None:
    has_app = service.endswith("-app")
    assert (inside(service, "id", "-u").strip() == "0") == has_app
    code = "open('/app/x', 'w')"
    refused = subprocess.run(
        ["docker", "compose", "-f", str(COMPOSE), "exec", "-T", service, "python", "-c", code],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Read-only file system" in refused.stderr
    container = json.loads(docker("inspect", f"fedstrata-{service}-1"))[0]
    given = [each.removeprefix("CAP_") for each in container["HostConfig"]["CapAdd"] or []]
    assert container["HostConfig"]["CapDrop"] == ["ALL"]
    assert sorted(given) == (RIGHTS if has_app else [])
    assert container["State"]["Health"]["Status"] == "healthy"


def test_no_private_key_is_in_the_image(results: dict[str, Any]) -> None:
    find = "find / -xdev \\( -name '*.key' -o -name 'appio.secret' \\) -not -path '/proc/*'"
    said = docker("run", "--rm", "fedstrata", "sh", "-c", f"{find} 2>/dev/null || true")
    assert [line for line in said.splitlines() if "site-packages" not in line] == []


def test_a_hospital_has_its_own_keys_alone(results: dict[str, Any]) -> None:
    assert set(inside("a-node", "ls", "/keys").split()) == {"ca.crt", "supernode.key"}
    assert set(inside("a-app", "ls", "/keys").split()) == {"audit.key", "audit.pub"}


def test_node_site_and_app_are_three_users(results: dict[str, Any]) -> None:
    user = APP_USER.partition(":")[0]
    node = {row.split()[0] for row in inside("a-node", "python", "-c", USERS).splitlines()}
    rows = [row.split() for row in inside("a-app", "python", "-c", USERS).splitlines()]
    assert len(node) == 1
    assert node.isdisjoint({"0", user})
    assert {row[0] for row in rows} == {"0", user}
    of_app = {tuple(row[1:]) for row in rows if row[0] == user}
    assert of_app == {("0" * 16, "1")}  # no right at all, and none to be had


def test_the_apps_user_can_neither_read_a_key_nor_change_the_rules(results: dict[str, Any]) -> None:
    for path in ("/keys/audit.key", "/state/guard/hospital-a/audit.jsonl"):
        with pytest.raises(AssertionError, match="Permission denied"):
            inside("a-app", "cat", path, user=APP_USER)
    with pytest.raises(AssertionError, match=r"Permission denied|Read-only"):
        inside("a-app", "sh", "-c", "echo >> /site/site.yaml", user=APP_USER)


def test_each_line_of_a_hospitals_audit_log_is_signed(results: dict[str, Any]) -> None:
    audit = ("fedstrata", "site", "audit", "--settings", "/site/site.yaml", "--verify")
    assert "left" in inside("a-app", *audit)


def test_a_run_that_is_not_signed_trains_nowhere(results: dict[str, Any]) -> None:
    waits = f"{SMALL} strategy.join_timeout=20".replace("min_sites=3", "min_sites=1")
    command = ["flwr", "run", "/app", "testbed", "--stream", "-c", f'overrides="{waits}"']
    said = compose("run", "--rm", "--no-deps", "-T", "operator", *command)
    for letter in "abc":
        assert f"hospital-{letter}" in said
    assert said.count("is not signed, and this site asks for it") >= 3
    assert "round 1" not in said


def test_apps_of_the_operator_find_no_private_key_and_reach_no_control_port(
    results: dict[str, Any],
) -> None:
    find = ["find", "/", "-xdev", "-name", "*.key", "-not", "-path", "/proc/*"]
    assert (
        compose("exec", "-T", "serverapp", "sh", "-c", f"{' '.join(find)} 2>/dev/null || true")
        == ""
    )
    assert set(inside("serverapp", "ls", "/keys").split()) == {"ca.crt", "appio.secret"}
    control, line = "198.18.250.2:9093", address("superlink", "line-a")
    tried = ["198.18.251.2:9091", "198.18.251.2:9092", "198.18.251.2:9093", control]
    tried += [f"{line}:9092", f"{address('a-node', 'line-a')}:9094"]
    assert reached("serverapp", *tried) == ["198.18.251.2:9091", "198.18.251.2:9092"]


def test_the_superlinks_database_is_its_users_alone(results: dict[str, Any]) -> None:
    assert inside("superlink", "stat", "-c", "%a", "/state/link").strip() == "700"
    modes = inside("superlink", "sh", "-c", "stat -c %a /state/link/superlink.db*").split()
    assert set(modes) == {"600"}


def test_the_image_says_what_is_in_it(results: dict[str, Any]) -> None:
    bill = json.loads(testbed("sbom"))
    names = {each["purl"].partition("@")[0] for each in bill["components"]}
    assert {"pkg:pypi/flwr", "pkg:pypi/torch", "pkg:deb/debian/libc6"} <= names


def test_personal_layers_are_in_the_hospitals_own_volume(results: dict[str, Any]) -> None:
    sites = f"/state/sites/{results['federation']}/sites"
    mine = inside("a-app", "ls", f"{sites}/hospital-a", user=APP_USER)
    assert "round-000003.safetensors" in mine
    assert "hospital-a" not in inside("b-app", "ls", sites, user=APP_USER)
    with pytest.raises(AssertionError, match="Permission denied"):  # not even the site's process
        inside("a-app", "ls", sites)


def test_the_operator_has_no_private_key(results: dict[str, Any]) -> None:
    find = ["find", "/consortium", "-name", "*.key"]
    assert compose("run", "--rm", "--no-deps", "-T", "operator", *find).strip() == ""


def test_a_site_has_this_machines_clock(results: dict[str, Any]) -> None:
    here = subprocess.run(["date", "+%z"], capture_output=True, text=True, check=True).stdout
    assert inside("a-app", "date", "+%z") == here
