"""The memory of a server is that of its processes together."""

from __future__ import annotations

import os
import subprocess
import sys

from benchmarks.flower.process_tree import memory_of
from benchmarks.measure.server_memory import ServerMemory

LARGE = 200_000_000
HOLD = f"held = b'x' * {LARGE}; print(flush=True); input()"
CHILD = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {HOLD!r}])"


def test_the_most_of_a_process_and_its_children_stays() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as server:
        assert server.stdout is not None
        server.stdout.readline()  # the child holds its memory now
        memory = ServerMemory([server.pid])
        memory.look()
        alone = memory_of(server.pid)
        server.communicate(b"\n")
    assert memory.most > LARGE
    assert alone < LARGE
    before = memory.most
    memory.look()  # all have ended
    assert memory.most == before


def test_it_looks_until_it_is_left() -> None:
    with ServerMemory([os.getpid()]) as memory:
        pass
    assert memory.most > 1e6
