"""The testbed in containers, as tests use it: `docker/testbed`, and commands in its containers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = ROOT / "docker" / "compose.yml"
SCRIPT = str(ROOT / "docker" / "testbed")
BASE = "python:3.11-slim-bookworm"  # by its name: the digest would need a registry
APP_USER = "10002:10002"  # `app-user` of docker/hospitals
SMALL = (
    "model=small_cnn model.head=[8] weights=none groups.pretrained=[] "
    "groups.common=[conv1,bn1,conv2,conv3] groups.task=[head.0] groups.personal=[bn2,bn3,head.out] "
    "data.size=28 data.train=24 data.validation=8 data.test=24 data.identities=12 "
    "train.batch_size=8 strategy.rounds=3 strategy.min_sites=3"
)


def engine() -> bool:
    """Return whether there is a Docker engine with compose."""
    command = ["docker", "compose", "ls"]
    return (
        bool(shutil.which("docker"))
        and not subprocess.run(command, capture_output=True, check=False).returncode
    )


def environment() -> dict[str, str]:
    """Return an environment in which compose runs containers as `docker/testbed` does."""
    user = f"{os.getuid()}:{os.getgid()}" if os.getuid() else "10001:10001"
    return {"FEDSTRATA_USER": user, **os.environ}


def docker(*command: str) -> str:
    done = subprocess.run(
        ["docker", *command], env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def compose(*command: str) -> str:
    return docker("compose", "--file", str(COMPOSE), *command)


def inside(service: str, *command: str, user: str = "") -> str:
    """Run a command in a container, as its own user or another.

    Root of a hospital's app container may not read what belongs to the app's user: `APP_USER`.
    """
    return compose("exec", "-T", *(("--user", user) if user else ()), service, *command)


def testbed(*command: str) -> str:
    given = {"BASE": BASE, **os.environ}
    done = subprocess.run(
        [SCRIPT, *command], env=given, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


testbed.__test__ = False  # type: ignore[attr-defined]


def results_in(said: str) -> dict[str, Any]:
    """Return the results of the run that `docker/testbed` says it saw to its end."""
    line = [line for line in said.splitlines() if line.startswith("results: /")][-1]
    results: dict[str, Any] = json.loads(Path(line.removeprefix("results: ")).read_text())
    return results
