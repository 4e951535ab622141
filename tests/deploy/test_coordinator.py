"""The coordinator's systemd units: whole, hardened, and with ports that fit each other."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from consortium.founding import SECRET, SERVERAPP, SUPERLINK
from fedstrata.cli.superlink import parser

ROOT = Path(__file__).resolve().parents[2]
UNITS = [
    ROOT / "deploy" / "coordinator" / f"fedstrata-{name}.service" for name in (SUPERLINK, SERVERAPP)
]
MOST_EXPOSED = (
    20  # tenths of what `systemd-analyze security` counts: 96 for a unit with nothing set
)
needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="no systemd-analyze on this machine"
)


def entries(unit: Path) -> list[tuple[str, str]]:
    lines = [line for line in unit.read_text().splitlines() if "=" in line and line[0] != "#"]
    return [(line.partition("=")[0], line.partition("=")[2]) for line in lines]


def values(unit: Path, key: str) -> list[str]:
    return [value for name, value in entries(unit) if name == key]


@needs_systemd
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_takes_them_and_finds_little_exposed(unit: Path, tmp_path: Path) -> None:
    installed = str(Path(sys.executable).parent)
    copies = [tmp_path / each.name for each in UNITS]
    for original, copy in zip(UNITS, copies, strict=True):
        copy.write_text(original.read_text().replace("/opt/fedstrata/bin/", f"{installed}/"))
    analyze = ["systemd-analyze", "--man=no"]
    name = str(tmp_path / unit.name)
    verified = subprocess.run(
        [*analyze, "verify", *map(str, copies)], capture_output=True, text=True, check=False
    )
    assert verified.returncode == 0, verified.stderr
    assert str(tmp_path) not in verified.stderr
    threshold = [f"--threshold={MOST_EXPOSED}", "--offline=true", "--no-pager"]
    exposed = subprocess.run(
        [*analyze, "security", *threshold, name], capture_output=True, text=True, check=False
    )
    assert exposed.returncode == 0, exposed.stdout[-1500:] + exposed.stderr


def test_the_two_run_as_two_users_and_have_no_key_in_common() -> None:
    link, app = ({value.partition(":")[0] for value in values(u, "LoadCredential")} for u in UNITS)
    assert link == {"server.key", "server.crt", "ca.crt", SECRET}
    assert app == {SECRET}
    users = [values(unit, "User") for unit in UNITS]
    assert users == [["fedstrata-superlink"], ["fedstrata-serverapp"]]
    made = (UNITS[0].parent / "fedstrata-coordinator.sysusers").read_text()
    assert re.findall(r"^u (\S+)", made, re.MULTILINE) == [name for (name,) in users]


def test_apps_reach_their_port_and_not_the_control_port() -> None:
    (command,) = values(UNITS[0], "ExecStart")
    started = parser().parse_known_args(command.split()[2:])[0]
    host = started.serverappio_api_address.rpartition(":")[0]
    (theirs,) = values(UNITS[1], "ExecStart")
    assert f"--appio-api-address {started.serverappio_api_address} " in theirs
    assert values(UNITS[1], "IPAddressDeny") == ["any"]
    assert values(UNITS[1], "IPAddressAllow") == [host]
    assert started.control_api_address.rpartition(":")[0] not in (host, "0.0.0.0")


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_what_they_write_is_their_users_alone(unit: Path) -> None:
    assert values(unit, "UMask") == ["0077"]
    assert values(unit, "StateDirectoryMode") == ["0700"]
