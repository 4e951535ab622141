"""Processes end with those who started them, and their children too."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from benchmarks.flower.process_tree import running
from benchmarks.flower.processes import Processes, clean_environment, free_port, listening

# A child in a session of its own with another environment, as Ray's workers are.
FAMILY = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], env={},
                         start_new_session=True)
print(child.pid, flush=True)
time.sleep(600)
"""


def test_children_that_left_the_group_end_too(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes:
        parent = processes.start("family", [sys.executable, "-c", FAMILY])
        processes.wait_for("a child", lambda: parent.text.endswith("\n"), seconds=60)
        child = int(parent.text)
        assert child in {process.pid for process in running()}
    assert child not in {process.pid for process in running()}
    assert parent.ended


def test_lines_are_yielded_until_the_process_has_ended(tmp_path: Path) -> None:
    code = "import time; print('a', flush=True); time.sleep(0.3); print('b'); print('c', end='')"
    with Processes(tmp_path) as processes:
        process = processes.start("lines", [sys.executable, "-c", code])
        assert list(process.lines(0.01)) == ["a\n", "b\n", "c"]
        assert process.ended


def test_what_does_not_happen_is_an_error_with_the_logs(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes:
        ended = processes.start("short", [sys.executable, "-c", "print('why it ended')"])
        with pytest.raises(AssertionError, match=r"short ended before: it(.|\n)*why it ended"):
            processes.wait_for("it", lambda: False, seconds=60, watch=[ended])
        with pytest.raises(AssertionError, match="not within 0 s: it"):
            processes.wait_for("it", lambda: False, seconds=0)


def test_nothing_of_the_users_own_flower_is_in_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLWR_LOCAL_CONTROL_API_PORT", "1")
    monkeypatch.setenv("RAY_ADDRESS", "somewhere")
    monkeypatch.setenv("OTHER", "stays")
    found = clean_environment(tmp_path / "home", tmp_path, threads=3, more={"X": "1"})
    assert not {"FLWR_LOCAL_CONTROL_API_PORT", "RAY_ADDRESS"} & found.keys()
    assert (found["FLWR_HOME"], found["OMP_NUM_THREADS"]) == (str(tmp_path), "3")
    assert (found["OTHER"], found["X"]) == ("stays", "1")
    assert found["PATH"].startswith(str(Path(sys.executable).parent) + os.pathsep)


def test_a_free_port_is_one_that_nobody_listens_on() -> None:
    assert not listening(free_port())
