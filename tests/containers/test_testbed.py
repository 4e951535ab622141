"""The testbed in real containers: from nothing to a result, and nobody reaches what is not theirs.

Needs a Docker engine with compose: `pytest -m containers` (some ten minutes, most of it the image).
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = ROOT / "docker" / "compose.yml"
SMALL = (
    "model=small_cnn model.head=[8] weights=none groups.pretrained=[] "
    "groups.common=[conv1,bn1,conv2,conv3] groups.task=[head.0] groups.personal=[bn2,bn3,head.out] "
    "data.size=28 data.train=24 data.validation=8 data.test=24 data.identities=12 "
    "train.batch_size=8 strategy.rounds=3 strategy.min_sites=3"
)
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
SERVICES = [f"{hospital}-{part}" for hospital in "abc" for part in ("node", "app")] + ["superlink"]


def engine() -> bool:
    """Return whether there is a Docker engine with compose."""
    command = ["docker", "compose", "ls"]
    return (
        bool(shutil.which("docker"))
        and not subprocess.run(command, capture_output=True, check=False).returncode
    )


pytestmark = [
    pytest.mark.containers,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not engine(), reason="no Docker engine with compose on this machine"),
]


def docker(*command: str) -> str:
    done = subprocess.run(["docker", *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def compose(*command: str) -> str:
    return docker("compose", "--file", str(COMPOSE), *command)


def inside(service: str, *command: str) -> str:
    return compose("exec", "-T", service, *command)


def testbed(*command: str) -> str:
    script = str(ROOT / "docker" / "testbed")
    done = subprocess.run([script, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


testbed.__test__ = False  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def results() -> Iterator[dict[str, Any]]:
    testbed("down")
    try:
        said = testbed("up", "-c", f"overrides={SMALL}")
        (line,) = [line for line in said.splitlines() if line.startswith("results: ")]
        yield json.loads(Path(line.removeprefix("results: ")).read_text())
    finally:
        testbed("down")
        assert not (ROOT / "docker" / "consortium").exists()


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


def test_a_hospital_reaches_the_fleet_port_and_nothing_else(results: dict[str, Any]) -> None:
    server, neighbour = address("superlink", "line-a"), address("b-node", "line-b")
    tried = [f"{server}:{port}" for port in (9091, 9092, 9093)]
    tried += ["172.31.250.2:9093", f"{neighbour}:9094", "b-node:9094", "b-app:9094"]
    assert reached("a-node", "superlink:9092", *tried) == ["superlink:9092", f"{server}:9092"]


def test_the_process_with_the_data_reaches_its_node_alone(results: dict[str, Any]) -> None:
    server = address("superlink", "line-a")
    tried = ["superlink:9092", f"{server}:9092", "172.31.250.2:9093", "b-node:9094", "b-app:9094"]
    assert reached("a-app", "a-node:9094", *tried) == ["a-node:9094"]


@pytest.mark.parametrize("service", SERVICES)
def test_no_container_is_root_or_can_write_to_its_image(
    results: dict[str, Any], service: str
) -> None:
    assert inside(service, "id", "-u").strip() != "0"
    code = "open('/app/x', 'w')"
    refused = subprocess.run(
        ["docker", "compose", "-f", str(COMPOSE), "exec", "-T", service, "python", "-c", code],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Read-only file system" in refused.stderr
    told = json.loads(docker("inspect", f"fedstrata-{service}-1"))[0]
    assert told["HostConfig"]["CapDrop"] == ["ALL"]
    assert told["State"]["Health"]["Status"] == "healthy"


def test_no_private_key_is_in_the_image(results: dict[str, Any]) -> None:
    find = "find / -xdev \\( -name '*.key' -o -name 'supernode*' \\) -not -path '/proc/*'"
    said = docker("run", "--rm", "fedstrata", "sh", "-c", f"{find} 2>/dev/null || true")
    assert [line for line in said.splitlines() if "site-packages" not in line] == []


def test_a_hospital_has_its_own_keys_alone(results: dict[str, Any]) -> None:
    assert set(inside("a-node", "ls", "/keys").split()) == {
        "ca.crt",
        "supernode.key",
        "supernode.pub",
        "task",
    }
    assert "hospital-b" not in inside("a-node", "cat", "/keys/supernode.pub")


def test_personal_layers_are_in_the_hospitals_own_volume(results: dict[str, Any]) -> None:
    kept = f"/state/sites/{results['run']}/sites/hospital-a"
    assert "round-000003.safetensors" in inside("a-app", "ls", kept)
    assert "hospital-a" not in inside("b-app", "ls", f"/state/sites/{results['run']}/sites")
