"""The units for systemd: systemd understands them, our commands do, and their users are made."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from fedstrata.cli.site import parser
from site_guard.own_process import CAPABILITIES

UNITS = Path(__file__).resolve().parents[2] / "deploy" / "systemd"
SERVICES = sorted(UNITS.glob("*.service"))
needs_systemd = pytest.mark.skipif(
    not shutil.which("systemd-analyze"), reason="there is no systemd on this machine"
)


def entries(unit: Path) -> dict[str, str]:
    """Return the entries of a unit; of several with one name, the last."""
    text = unit.read_text().replace("\\\n", " ")
    return dict(line.split("=", 1) for line in text.splitlines() if re.match(r"\w+=", line))


@needs_systemd
@pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: unit.stem)
def test_systemd_has_no_complaint(unit: Path, tmp_path: Path) -> None:
    there = tmp_path / unit.name  # with a program that is on this machine
    there.write_text(re.sub(r"/opt/fedstrata/bin/[\w-]+", "/bin/true", unit.read_text()))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", there],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@needs_systemd
def test_a_mistake_in_a_unit_is_found(tmp_path: Path) -> None:
    there = tmp_path / "wrong.service"
    there.write_text("[Service]\nExecStart=/bin/true\nNoNewPrivilege=yes\n")
    done = subprocess.run(
        ["systemd-analyze", "verify", there], capture_output=True, text=True, check=False
    )
    assert "NoNewPrivilege" in done.stderr


def test_each_service_of_a_hospital_has_a_user_of_its_own_which_is_made() -> None:
    made = re.findall(r"(?m)^u (\S+)", (UNITS / "fedstrata.sysusers").read_text())
    hospitals = [UNITS / f"fedstrata-{name}.service" for name in ("node", "site")]
    users = [entries(unit)["User"] for unit in hospitals]
    assert sorted([*users, "fedstrata-app"]) == sorted(made)
    folders = (UNITS / "fedstrata.tmpfiles").read_text()
    assert set(re.findall(r"(?m)(fedstrata-\w+)$", folders)) == set(made)


def test_the_sites_process_may_do_what_it_needs_for_the_apps_user_and_no_more() -> None:
    node, site = (entries(UNITS / f"fedstrata-{name}.service") for name in ("node", "site"))
    assert node["CapabilityBoundingSet"] == ""
    for entry in ("AmbientCapabilities", "CapabilityBoundingSet"):
        assert set(site[entry].split()) == set(CAPABILITIES)
    for unit in (node, site):
        assert unit["NoNewPrivileges"] == "yes"
        assert unit["ProtectSystem"] == "strict"
    assert "landlock_restrict_self" in site["SystemCallFilter"]


def test_the_command_of_the_site_is_one_that_we_have() -> None:
    _, command, *options = shlex.split(entries(UNITS / "fedstrata-site.service")["ExecStart"])
    assert command == "site"
    assert parser().parse_args(options).settings == Path("/etc/fedstrata/site/site.yaml")
