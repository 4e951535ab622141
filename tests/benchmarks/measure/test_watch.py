"""Memory and processor time are those of all processes that were started, and of theirs."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from benchmarks.flower.processes import Processes
from benchmarks.measure.watch import Watch

# A child has the memory and computes; its parent waits for it.
CHILD = """
import sys, time
memory = b"x" * 100_000_000
end = time.process_time() + 1.0
while time.process_time() < end:
    pass
print("computed", flush=True)
sys.stdin.read()
"""
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {CHILD!r}])"


def test_what_a_child_takes_is_counted(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes, Watch(processes) as watch:
        begun = time.time()
        parent = processes.start("parent", [sys.executable, "-c", PARENT])
        processes.finish(parent, seconds=60)
    assert "computed" in parent.text
    assert watch.memory > 1e8
    assert watch.between(begun, time.time()) >= 0.5  # the last look may be a poll before its end


def test_seconds_between_two_moments_follow_from_the_looks_around_them(tmp_path: Path) -> None:
    watch = Watch(Processes(tmp_path), processor=[(10.0, 0.0), (12.0, 4.0), (14.0, 5.0)])
    assert watch.between(11.0, 13.0) == pytest.approx(2.5)


def test_processor_seconds_never_fall_when_a_process_ends(tmp_path: Path) -> None:
    watch = Watch(Processes(tmp_path), processor=[(10.0, 7.0)])
    watch.look()  # nothing runs
    assert watch.processor[-1][1] == 7.0
