"""Who lives on this machine, who started it, and what it carries."""

from __future__ import annotations

import os
import subprocess
import sys

from benchmarks.flower.process_tree import (
    command_line,
    descendants,
    has_variable,
    memory_of,
    processor_of,
    running,
)

NOBODY = 2**22 + 1  # above the largest pid


def test_a_child_is_found_with_its_parent_its_words_and_its_environment() -> None:
    code = "import sys; print(flush=True); sys.stdin.read()"
    child = subprocess.Popen(
        [sys.executable, "-c", code, "the word"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={"MARKED": "1"},
    )
    with child:
        assert child.stdout is not None
        child.stdout.readline()  # the program runs now, no copy of this one
        assert {p.pid: p.parent for p in running()}[child.pid] == os.getpid()
        assert child.pid in descendants(os.getpid())
        assert descendants(os.getpid(), "the word") == [child.pid]
        assert descendants(os.getpid(), "another word") == []
        assert has_variable(child.pid, "MARKED=1")
        assert not has_variable(child.pid, "MARKED=2")
        child.communicate()
    assert child.pid not in descendants(os.getpid())


def test_memory_is_that_of_a_living_process() -> None:
    assert memory_of(os.getpid()) > 1e6
    assert memory_of(NOBODY) == 0.0


def test_processor_seconds_are_of_a_process_and_its_ended_children() -> None:
    before = processor_of(os.getpid())
    code = "import time\nwhile time.process_time() < 0.5: pass"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert processor_of(os.getpid()) - before >= 0.4
    assert processor_of(NOBODY) == 0.0


def test_nothing_is_known_of_a_process_that_is_not_there() -> None:
    assert command_line(NOBODY) == ""
    assert not has_variable(NOBODY, "MARKED=1")
