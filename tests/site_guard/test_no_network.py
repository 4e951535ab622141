"""The app's process has no network: not by itself, not by what it starts, on either processor."""

from __future__ import annotations

import errno
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from site_guard.no_network import KNOWN, Architecture, NoFilter, filter_order, program
from tests.helpers.confined import folder_for_all, run_confined
from tests.helpers.tiny_app import confinement

ALLOW, KILL, REFUSE = 0x7FFF0000, 0x80000000, 0x00050000 | errno.EPERM
TRIES = """
import ctypes, socket, subprocess, sys

port = int(sys.argv[1])

def tcp():
    socket.create_connection(("127.0.0.1", port), timeout=5)

def udp():
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", port))

def ipv6():
    socket.socket(socket.AF_INET6)

def netlink():
    socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)

def started():
    code = f"import socket; socket.create_connection(('127.0.0.1', {port}), timeout=5)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if "PermissionError" in done.stderr:
        raise PermissionError

def refused(try_it):
    try:
        try_it()
    except PermissionError:
        return True
    return False

for try_it in (tcp, udp, ipv6, netlink, started):
    assert refused(try_it), try_it
kernel = ctypes.CDLL(None, use_errno=True)
assert kernel.ptrace(0, 0, 0, 0) == -1 and ctypes.get_errno() == 1
assert kernel.syscall(425, 8, 0) == -1 and ctypes.get_errno() == 1

one, other = socket.socketpair()
one.send(b"still there")
assert other.recv(20) == b"still there"
import torch
torch.set_num_threads(2)
model = torch.nn.Conv2d(3, 8, 3)
data = torch.utils.data.DataLoader(torch.ones(8, 3, 16, 16), batch_size=4, num_workers=1)
for batch in data:
    model(batch).sum().backward()
assert model.weight.grad is not None
print("all as it should be")
"""


@pytest.fixture
def port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0), backlog=16) as server:
        yield server.getsockname()[1]


@pytest.mark.skipif(os.uname().machine not in KNOWN, reason="there is no filter for it")
def test_nothing_but_the_pipe_is_left_and_training_works(port: int) -> None:
    # A short path: the loader's worker binds a socket in the folder for temporary files, whose name
    # may have 107 bytes. Where it has more, torch waits without end.
    with folder_for_all() as folder:
        done = run_confined(confinement(folder), TRIES, str(port))
    assert done.stdout.strip() == "all as it should be", done.stderr


@pytest.mark.skipif(os.uname().machine not in KNOWN, reason="there is no filter for it")
def test_with_the_network_kept_the_same_process_reaches_it(port: int, tmp_path: Path) -> None:
    done = run_confined(confinement(tmp_path, network=True), TRIES, str(port))
    assert "AssertionError: <function tcp" in done.stderr


def test_a_machine_without_a_filter_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(NoFilter, match="no filter for darwin"):
        filter_order()


def judged(architecture: Architecture, number: int, audit: int, argument: int) -> int:
    """Run the filter as the kernel does; return its verdict."""
    data, expected_items, at = {0: number, 4: audit, 16: argument & 0xFFFFFFFF}, 0, 0
    instructions = program(architecture)
    while True:
        code, true, false, operand = instructions[at]
        at += 1
        if code == 0x06:
            return operand
        if code == 0x20:
            expected_items = data[operand]
        else:
            assert code in (0x15, 0x35)
            at += (
                true
                if (expected_items == operand if code == 0x15 else expected_items >= operand)
                else false
            )


@pytest.mark.parametrize("name", KNOWN)
def test_the_filter_says_no_to_these_calls_only(name: str) -> None:
    it = KNOWN[name]
    for number in range(500):
        for domain in (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, 1 << 32):
            wrong = number in it.sockets and domain != socket.AF_UNIX
            expected = REFUSE if wrong or number in it.refused else ALLOW
            assert judged(it, number, it.audit, domain) == expected, (number, domain)
    assert judged(it, 0x40000000 + 41, it.audit, socket.AF_UNIX) == REFUSE
    assert judged(it, 0, 0x40000003, 0) == KILL
