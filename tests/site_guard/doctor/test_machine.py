"""A machine that does not suffice: no room, no memory, no GPU, other versions."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from site_guard.doctor import machine
from site_guard.doctor.checks import OK, PROBLEM, UNKNOWN
from site_guard.doctor.machine import (
    cgroup_limit,
    check_device,
    check_disk,
    check_memory,
    check_processes,
    check_speed,
    check_synchronized,
    check_versions,
)
from tests.helpers.file_limits import largest_file
from tests.helpers.tiny_app import settings


def test_a_cache_that_is_larger_than_the_disk(tmp_path: Path) -> None:
    _, cache, _ = check_disk(settings(tmp_path, cache_gb=10**9))
    assert cache.state == PROBLEM
    assert cache.mend.startswith("cache-gb: ")
    state, cache, speed = check_disk(settings(tmp_path, cache_gb=0))
    assert "MB/s" in speed.text
    assert "GB are free" in state.text


def test_a_disk_that_takes_no_more(tmp_path: Path) -> None:
    with largest_file(1_000_000):
        check = check_speed(tmp_path)
    assert check.state == PROBLEM
    assert "cannot be written" in check.text
    assert list(tmp_path.iterdir()) == []


def test_a_slow_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter((0.0, 60.0))
    monkeypatch.setattr(machine.time, "perf_counter", lambda: next(ticks))
    assert "rounds wait for the disk" in check_speed(tmp_path).text


def test_the_limits_of_a_container(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("0::/site/app\n")
    inner = tmp_path / "site" / "app"
    inner.mkdir(parents=True)
    (inner / "memory.max").write_text("max\n")
    assert cgroup_limit("memory.max", "memory/old", tmp_path, own) is None
    (tmp_path / "site" / "memory.max").write_text("1000\n")
    assert cgroup_limit("memory.max", "memory/old", tmp_path, own) == 1000
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "old").write_text("9223372036854771712\n")
    assert cgroup_limit("memory.max", "memory/old", tmp_path, tmp_path / "absent") is None


def test_too_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cgroup_limit", lambda *_: 10**9)
    assert check_memory().text == "1.0 GB the cgroup allows; the app needs 2 GB or more"
    monkeypatch.setattr(machine, "cgroup_limit", lambda *_: None)
    monkeypatch.setattr(machine, "_free_memory", lambda: None)
    assert check_memory().state == UNKNOWN


def test_too_few_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cgroup_limit", lambda *_: 20)
    assert "at most 20 processes" in check_processes().text


def device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, torch: str, driver: str = ""
) -> str:
    """Return what is said of a device, where torch prints ``torch`` about itself."""
    monkeypatch.setattr(machine, "TORCH", f"print({torch!r})")
    monkeypatch.setattr(machine, "_driver", lambda: driver)
    check = list(check_device(settings(tmp_path, device=name)))[-1]
    return f"{check.state}: {check.text}"


@pytest.mark.parametrize(
    ("name", "torch", "driver", "said"),
    [
        ("auto", '{"version": "2", "cuda": "13", "seen": []}', "", "ok: there is none"),
        ("cpu", '{"version": "2", "cuda": "13", "seen": []}', "", "ok: not used"),
        ("cuda", '{"version": "2", "cuda": "13", "seen": ["H200"]}', "570", "ok: cuda is H200"),
        ("cuda", '{"version": "2", "cuda": "13", "seen": []}', "", "problem: device is cuda, and"),
        ("cuda:1", '{"version": "2", "cuda": "13", "seen": ["H200"]}', "570", "torch sees 1 GPUs"),
        ("auto", '{"version": "2", "cuda": null, "seen": []}', "570", "torch is built for CPU"),
        ("auto", '{"version": "2", "cuda": "13", "seen": []}', "570", "does not see the GPU"),
    ],
)
def test_a_device(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    torch: str,
    driver: str,
    said: str,
) -> None:
    assert said in device(tmp_path, monkeypatch, name, torch, driver)


def test_a_torch_that_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "TORCH", "raise ImportError('libcudnn.so.9')")
    (check,) = check_device(settings(tmp_path))
    assert "libcudnn.so.9" in check.text
    monkeypatch.setattr(machine, "TORCH", "import time; time.sleep(60)")
    monkeypatch.setattr(machine, "TORCH_SECONDS", 0.1)
    (check,) = check_device(settings(tmp_path))
    assert check.state == UNKNOWN


@pytest.mark.parametrize(
    ("printed", "state"), [("yes", OK), ("no", PROBLEM), (None, UNKNOWN)], ids=str
)
def test_the_time_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, printed: str | None, state: str
) -> None:
    if printed:
        (tmp_path / "timedatectl").write_text(f"#!/bin/sh\necho {printed}\n")
        (tmp_path / "timedatectl").chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin" if printed else str(tmp_path))
    assert check_synchronized().state == state


def test_other_versions_than_the_coordinators(tmp_path: Path) -> None:
    constraints = tmp_path / "constraints.txt"
    constraints.write_text("# made\nflwr==1.30.0\nnumpy==0.1\nnothing==1\n")
    check = list(check_versions(constraints))[-1]
    assert "(there 1.30.0)" in check.text
    assert "numpy" in check.text
    assert "nothing" not in check.text
    constraints.write_text(f"# on Python 3.9: made\nflwr=={machine._version('flwr')}\n")
    check = list(check_versions(constraints))[-1]
    assert check.state == OK
    assert check.text.startswith("the same for flwr; Python 3.")
    assert check.text.endswith("here, 3.9 there")
    constraints.write_text("numpi==1\n")
    assert "none of our packages" in list(check_versions(constraints))[-1].text
    assert list(check_versions(None))[-1].state == UNKNOWN
    assert list(check_versions(tmp_path / "absent"))[-1].state == PROBLEM


def test_versions_that_were_not_tested(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"flwr": "1.40.0", "torch": "2.9.1"}
    monkeypatch.setattr(machine, "_version", lambda package: versions.get(package, ""))
    monkeypatch.setattr(sys, "version_info", (3, 9, 0))
    found = {check.name: check for check in check_versions(None)}
    assert {name for name, check in found.items() if check.state == PROBLEM} == {
        *("Python", "Flower", "torch's version"),
    }
