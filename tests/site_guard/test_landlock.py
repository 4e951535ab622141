"""Landlock leaves the app's process its own files, on this machine's kernel."""

from __future__ import annotations

import os
import struct
import sys
from pathlib import Path

import pytest

from site_guard import landlock
from site_guard.landlock import kernel_version, rules
from tests.helpers.confined import run_confined
from tests.helpers.tiny_app import confinement

NOT_HERE = "this kernel has no Landlock in force"
landlocked = pytest.mark.skipif(not kernel_version(), reason=NOT_HERE)
TRIES = """
import os, pathlib, signal, socket, sys
top, other = pathlib.Path(sys.argv[1]), int(sys.argv[2])

def tried(name, function, *arguments):
    try:
        function(*arguments)
        print(name, "done")
    except OSError as error:
        print(name, error.strerror)

tried("read data", (top / "data" / "picture").read_text)
tried("read the rest", (top / "key").read_text)
tried("read settings", pathlib.Path("/etc/hostname").read_text)
tried("write data", (top / "data" / "picture").write_text, "")
tried("remove data", (top / "data" / "picture").unlink)
tried("write code", pathlib.Path(os.__file__).with_name("zz.pth").write_text, "")
tried("write state", (top / "bundles" / "x").write_text, "")
tried("move state", os.replace, top / "bundles" / "x", top / "tmp" / "x")
tried("link out", os.symlink, top / "key", top / "bundles" / "link")
tried("run a file", os.execv, top / "data" / "program", ["program"])
tried("look at a process", open, f"/proc/{other}/mem", "rb")
tried("signal a process", os.kill, other, 0)
tried("abstract socket", socket.socket(socket.AF_UNIX).connect, sys.argv[3].replace("@", "\\0"))
import multiprocessing
with multiprocessing.Pool(1) as pool:
    print("pool", pool.map(abs, [-1]))
import torch
print("torch", torch.ones(2).share_memory_().sum().item())
"""


@landlocked
def test_the_process_has_its_own_files_and_no_others(tmp_path: Path) -> None:
    import socket

    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "picture").write_text("a picture")
    (tmp_path / "data" / "program").write_text("#!/bin/sh\n")
    (tmp_path / "data" / "program").chmod(0o755)
    (tmp_path / "key").write_text("a key")
    with socket.socket(socket.AF_UNIX) as listening:
        name = f"fedstrata-test-{os.getpid()}"
        listening.bind(f"\0{name}")
        listening.listen()
        arguments = (str(tmp_path), str(os.getpid()), f"@{name}")
        done = run_confined(confinement(tmp_path, read=(tmp_path / "data",)), TRIES, *arguments)
    scoped = "Operation not permitted" if kernel_version() >= landlock.COMPLETE else "done"
    no = "Permission denied"
    assert done.stdout.splitlines() == [
        "read data done",
        f"read the rest {no}",
        f"read settings {no}",
        f"write data {no}",
        f"remove data {no}",
        f"write code {no}",
        "write state done",
        "move state done",
        f"link out {no}",
        f"run a file {no}",
        f"look at a process {no}",
        f"signal a process {scoped}",
        f"abstract socket {scoped}",
        "pool [1]",
        "torch 2.0",
    ], done


@landlocked
def test_without_the_rules_the_same_process_reads_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(landlock, "kernel_version", lambda: 0)
    (tmp_path / "key").write_text("a key")
    code = "import pathlib, sys; print(pathlib.Path(sys.argv[1]).read_text())"
    done = run_confined(confinement(tmp_path), code, str(tmp_path / "key"))
    assert done.stdout == "a key\n"


@pytest.mark.parametrize(
    ("version", "expected"), [(1, (0x1FFF,)), (3, (0x7FFF,)), (4, (0x7FFF, 3)), (7, (0xFFFF, 3, 3))]
)
def test_an_older_kernel_is_asked_only_for_what_it_knows(
    version: int, expected: tuple[int, ...]
) -> None:
    made = rules(version, programs=(), read=(Path("/r"),), write=(Path("/w"),), network=False)
    attributes = bytes.fromhex(made["attributes"])
    assert struct.unpack(f"={len(attributes) // 8}Q", attributes) == expected
    assert all(allowed and not allowed & ~expected[0] for _, allowed, _ in made["rules"])


def test_a_process_that_keeps_its_network_may_connect() -> None:
    made = rules(7, programs=(), read=(), write=(), network=True)
    assert struct.unpack("=3Q", bytes.fromhex(made["attributes"]))[1] == 0


def test_other_systems_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert kernel_version() == 0
