"""A fault waits for the begin of its phase, as logs and checkpoints show it."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from benchmarks.fault_injection import injector as module
from benchmarks.fault_injection.injector import Injector, round_number
from benchmarks.fault_injection.plan import SITES, Fault
from benchmarks.fault_injection.testbed import RestartedProcess, Testbed
from benchmarks.flower.deployment import SuperLink
from benchmarks.flower.processes import Process, Processes
from benchmarks.flower.proxy import Proxy

LINE = ": train, round\n"
SITE = SITES[0]


class Looks:
    """A run that changes a file before each look, and ends after the last."""

    def __init__(self, path: Path, texts: list[str]) -> None:
        self.path, self.texts = path, iter(texts)

    @property
    def ended(self) -> bool:
        text = next(self.texts, None)
        if text is not None:
            self.path.write_text(text)
        return text is None


@pytest.fixture
def testbed(tmp_path: Path) -> Iterator[Testbed]:
    with Processes(tmp_path) as processes:
        yield Testbed(processes, SuperLink(processes), {})


def waits_for(testbed: Testbed, phase: str, first: str, texts: list[str]) -> bool:
    """Return whether a phase is seen to begin in a log with these contents one after the other."""
    log = testbed.processes.folder / "again.log"
    log.write_text(first)
    process = Process("site", cast("subprocess.Popen[bytes]", None), log)
    testbed.sites[SITE] = testbed.nodes[SITE] = RestartedProcess(lambda: process, process)
    injector = Injector(testbed, cast(Process, Looks(log, texts)), "march")
    return injector.await_phase(Fault("site", SITE, "kill", phase, 0.0))


@pytest.mark.parametrize(
    ("phase", "line"),
    [
        ("training", LINE),
        ("receiving", "Receiving:"),
        ("replying", "Sending:"),
        ("aggregating", "Sent successfully"),
    ],
)
def test_a_phase_begins_with_its_line_in_the_log(testbed: Testbed, phase: str, line: str) -> None:
    assert waits_for(testbed, phase, line, [line, 2 * line])
    assert not waits_for(testbed, phase, line, [line, line + "other"])


def test_a_phase_is_seen_in_the_log_of_a_process_that_was_started_again(testbed: Testbed) -> None:
    assert waits_for(testbed, "training", 5 * LINE, [5 * LINE, "", LINE])


def test_a_checkpoint_that_is_being_written_is_no_idle_round(testbed: Testbed) -> None:
    checkpoints = testbed.output / "march" / "checkpoints"
    for name in ("round-000003", ".round-000004.tmp"):
        (checkpoints / name).mkdir(parents=True)
    injector = Injector(testbed, cast(Process, None), "march")
    assert injector._count("idle", SITE) == 3
    assert injector._count("checkpointing", SITE) == 4
    assert round_number("none") == 0


def test_a_cut_breaks_the_line_of_its_site_and_a_pause_goes_on(
    testbed: Testbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened: list[object] = []

    class Line:
        def cut(self) -> None:
            happened.append("cut")

        def restore(self) -> None:
            happened.append("restored")

    monkeypatch.setattr(Injector, "await_phase", lambda self, fault: True)
    monkeypatch.setattr(module, "_signal", lambda pids, number: happened.append(number))
    monkeypatch.setattr(Testbed, "pids", lambda self, fault: [1])
    monkeypatch.setattr(module.time, "sleep", lambda seconds: None)
    testbed.lines = {site: cast(Proxy, Line()) for site in SITES}
    injector = Injector(testbed, cast(Process, None), "march")
    for component, site, kind in (
        ("supernode", SITE, "cut"),
        ("site", SITE, "pause"),
        ("site", SITE, "kill"),
    ):
        assert injector.inject(Fault(component, site, kind, "idle", 0.0))
    assert happened == ["cut", "restored", signal.SIGSTOP, signal.SIGCONT, signal.SIGKILL]


def test_a_fault_that_finds_nobody_did_not_happen(
    testbed: Testbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Injector, "await_phase", lambda self, fault: True)
    ended = testbed.processes.start("site", [sys.executable, "-c", "pass"])
    testbed.processes.finish(ended, seconds=60)
    testbed.sites[SITE] = RestartedProcess(lambda: ended, ended)
    injector = Injector(testbed, ended, "march")
    assert not injector.inject(Fault("site", SITE, "kill", "idle", 0.0))
