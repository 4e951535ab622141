"""What stands in docker/: settings that are read, compose files that are whole, keys that stay out."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from site_guard.settings import read_settings

ROOT = Path(__file__).resolve().parents[2]
SITE = ROOT / "docker" / "site"
SETTINGS = sorted(
    [*(ROOT / "docker").glob("*/*.yaml"), ROOT / "docs" / "site.yaml"], key=lambda path: path.name
)
FILLED = {"SUPERLINK": "superlink.example:9092", "DATA": "/srv/x", "FEDSTRATA_USER": "1000:1000"}
needs_compose = pytest.mark.skipif(
    not shutil.which("docker")
    or bool(subprocess.run(["docker", "compose", "version"], capture_output=True).returncode),
    reason="no docker compose on this machine",
)


@pytest.mark.parametrize("path", SETTINGS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_site_yaml_is_read(path: Path) -> None:
    share = ("prototypes",) if path.parent.name == "different-networks" else ("common", "task")
    assert read_settings(path).share == share


def test_a_hospital_gets_the_entries_that_are_documented() -> None:
    given, documented = (
        yaml.safe_load(path.read_text()) for path in (SITE / "site.yaml", ROOT / "docs/site.yaml")
    )
    assert list(given) == [*documented, "audit"]  # its key is one of the folder that they hand out
    places = {"data", "state", "cache", "app-user", "audit"}
    assert {key: given[key] for key in given if key not in places} == {
        key: documented[key] for key in documented if key not in places
    }


def config(*command: str, filled: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run `docker compose config` in an environment without anything that the files ask for."""
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.run(
        ["docker", "compose", *command, "config", "--format", "json"],
        env=environment | (filled or {}),
        capture_output=True,
        text=True,
        check=False,
    )


@needs_compose
@pytest.mark.parametrize(
    "files",
    [
        ["docker/compose.yml"],
        ["docker/compose.yml", "docker/compose.gpu.yml"],
        ["docker/site/compose.yml"],
        ["docker/site/compose.yml", "docker/site/compose.gpu.yml"],
    ],
    ids=" ".join,
)
def test_compose_takes_its_files(files: list[str]) -> None:
    options = [word for file in files for word in ("--file", str(ROOT / file))]
    done = config(*options, "--profile", "operator", filled=FILLED)
    assert done.returncode == 0, done.stderr
    assert not done.stderr


@needs_compose
def test_a_hospital_fills_in_three_lines_once(tmp_path: Path) -> None:
    shutil.copytree(SITE, tmp_path / "site")
    command = ["--project-directory", str(tmp_path / "site")]
    command += ["--file", str(tmp_path / "site" / "compose.yml")]
    refused = config(*command)
    assert refused.returncode != 0
    assert "in .env" in refused.stderr
    env = tmp_path / "site" / ".env"
    lines = env.read_text().splitlines()
    env.write_text("\n".join(f"{line}{FILLED.get(line.rstrip('='), '')}" for line in lines))
    done = config(*command)
    assert done.returncode == 0, done.stderr
    services = yaml.safe_load(done.stdout)["services"]
    users = {name: (service["user"], service.get("cap_add")) for name, service in services.items()}
    # Root of its container, to start the app as `app-user`; with these rights and no other.
    of_app = ("0:0", ["SETUID", "SETGID", "KILL"])
    assert users == {"node": ("1000:1000", None), "app": of_app}
    assert all(service["cap_drop"] == ["ALL"] for service in services.values())
    assert all(service["mem_limit"] and service["pids_limit"] for service in services.values())


@needs_compose
def test_each_private_key_is_in_the_one_container_that_uses_it() -> None:
    services = yaml.safe_load(
        config("--file", str(ROOT / "docker" / "compose.yml"), "--profile", "operator").stdout
    )["services"]
    made = ROOT / "docker" / "consortium"
    public = {
        made / "operator",
        *(made / "us" / name for name in ("roster", "public", "hospitals")),
    }
    public |= {made / "us" / "public" / "ca.crt"}
    own = {
        "superlink": {made / "us" / "superlink"},
        "serverapp": {made / "us" / "serverapp"},
        **{f"{x}-node": {made / "at" / f"hospital-{x}" / "supernode.key"} for x in "abc"},
        **{f"{x}-app": {made / "at" / f"hospital-{x}" / "audit.key"} for x in "abc"},
    }
    public |= {
        made / "at" / f"hospital-{x}" / name for x in "abc" for name in ("site.yaml", "audit.pub")
    }
    for name, service in services.items():
        sources = {Path(volume["source"]) for volume in service["volumes"]}
        secret = {path for path in sources if path.is_relative_to(made)} - public
        assert secret == own.get(name, set()), name


@needs_compose
def test_only_the_operators_containers_are_on_the_network_of_the_control_port() -> None:
    services = yaml.safe_load(
        config("--file", str(ROOT / "docker" / "compose.yml"), "--profile", "operator").stdout
    )["services"]
    on = {name: set(service["networks"]) for name, service in services.items()}
    assert {name for name in on if "operator" in on[name]} == {"superlink", "operator", "driver"}
    assert {name for name in on if "apps" in on[name]} == {"superlink", "serverapp"}
    assert on["serverapp"] == {"apps"}


def test_all_of_our_code_and_nothing_beside_it_enters_the_image() -> None:
    lines = (ROOT / ".dockerignore").read_text().split("\n")
    admitted = {
        path.relative_to(ROOT)
        for line in lines
        if line.startswith("!")
        for path in ROOT.glob(line[1:] + ("/*" if line.endswith("**") else ""))
        if path.suffix not in (".pyc", ".key", ".pem")
    }
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    code = {
        path.relative_to(ROOT)
        for package in packages["targets"]["wheel"]["packages"]
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.suffix not in (".pyc", ".key", ".pem")
    }
    files = {path for path in admitted if (ROOT / path).is_file()}
    locked = ("docker/requirements.txt", "docker/build-requirements.txt", "docker/sbom.py")
    beside = {Path(name) for name in ("pyproject.toml", "README.md", "LICENSE", *locked)}
    assert files == code | beside


def test_no_key_enters_the_image_or_git() -> None:
    lines = (ROOT / ".dockerignore").read_text().split()
    assert lines[-2:] == ["**/*.key", "**/*.pem"]
    assert {"*.key", "*.pem"} <= set((ROOT / ".gitignore").read_text().split())


def test_builds_by_hand_and_of_the_testbed_have_one_base_image_by_its_digest() -> None:
    base = (ROOT / "docker" / "base-image").read_text().strip()
    assert re.fullmatch(r"python:3\.11-slim-bookworm@sha256:[0-9a-f]{64}", base)
    dockerfile = (ROOT / "docker" / "Dockerfile").read_text()
    assert re.findall(r"^ARG BASE=(.*)$", dockerfile, re.MULTILINE) == [base]
