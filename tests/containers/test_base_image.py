"""The base image is pinned by the digest that its registry has, against a registry of our own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.containers.testbed import BASE, ROOT, docker, engine

pytestmark = pytest.mark.containers


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """Start a registry that has the base image; give its address."""
    program = shutil.which("docker-registry")
    if not engine() or program is None:
        pytest.skip("no Docker engine with compose, or no docker-registry, on this machine")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    settings = tmp_path / "registry.yml"
    settings.write_text(
        f"version: 0.1\nstorage:\n  filesystem: {{rootdirectory: {tmp_path / 'layers'}}}\n"
        f"http: {{addr: '{address}'}}\n"
    )
    process = subprocess.Popen(
        [program, "serve", str(settings)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        image = f"{address}/{BASE}"
        docker("tag", BASE, image)
        for _ in range(50):
            if not subprocess.run(
                ["docker", "push", image], capture_output=True, check=False
            ).returncode:
                break
            time.sleep(0.2)
        yield image
    finally:
        process.terminate()
        process.wait()
        docker("rmi", "--force", image)


def test_the_pinned_base_is_the_one_that_is_built_on(registry: str, tmp_path: Path) -> None:
    folder = tmp_path / "docker"
    shutil.copytree(ROOT / "docker", folder)
    command = [str(folder / "testbed"), "pin"]
    done = subprocess.run(
        command, env={**os.environ, "BASE": registry}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    pinned = (folder / "base-image").read_text().strip()
    assert pinned.startswith(f"{registry}@sha256:")
    assert f"\nARG BASE={pinned}\n" in (folder / "Dockerfile").read_text()

    (tmp_path / "Dockerfile").write_text("ARG BASE\nFROM ${BASE}\n")
    docker("build", "--build-arg", f"BASE={pinned}", "--tag", "pinned", str(tmp_path))
    layers = "{{.RootFS.Layers}}"
    try:
        assert docker("inspect", "--format", layers, "pinned") == docker(
            "inspect", "--format", layers, BASE
        )
    finally:
        docker("rmi", "--force", "pinned")

    other = pinned[:-4] + ("0000" if pinned[-4:] != "0000" else "1111")
    refused = subprocess.run(
        ["docker", "build", "--build-arg", f"BASE={other}", str(tmp_path)],
        capture_output=True,
        check=False,
    )
    assert refused.returncode


def without_registry(folder: Path, command: str, base: str) -> subprocess.CompletedProcess[str]:
    """Run a command of a copy of the testbed, with a base image that no registry gives."""
    if not engine():
        pytest.skip("no Docker engine with compose on this machine")
    shutil.copytree(ROOT / "docker", folder)
    return subprocess.run(
        [str(folder / "testbed"), command],
        env={**os.environ, "BASE": base},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_registry_that_does_not_answer_leaves_the_files_as_they_were(tmp_path: Path) -> None:
    done = without_registry(tmp_path / "docker", "pin", "localhost:1/python:3.11")
    assert done.returncode
    for name in ("base-image", "Dockerfile"):
        assert (tmp_path / "docker" / name).read_text() == (ROOT / "docker" / name).read_text()


def test_without_a_registry_the_testbed_names_the_way_to_build(tmp_path: Path) -> None:
    base = f"localhost:1/python:3.11@sha256:{'0' * 64}"
    done = without_registry(tmp_path / "docker", "up", base)
    assert done.returncode
    assert "BASE=localhost:1/python:3.11 docker/testbed up" in done.stderr
