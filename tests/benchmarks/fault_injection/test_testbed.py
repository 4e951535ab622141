"""A process that died is started again, until the testbed ends."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from benchmarks.fault_injection.plan import SITES, Fault
from benchmarks.fault_injection.testbed import RestartedProcess, Testbed
from benchmarks.flower.deployment import SuperLink
from benchmarks.flower.processes import Process, Processes


def short(processes: Processes) -> Process:
    return processes.start("short", [sys.executable, "-c", "print('done')"])


def test_a_process_that_ended_is_started_again(tmp_path: Path) -> None:
    again = threading.Event()
    with Processes(tmp_path) as processes:

        def start() -> Process:
            if restarted.starts == 1:
                again.set()
            return short(processes)

        restarted = RestartedProcess(start)
        assert restarted.text == ""
        restarted.begin()
        assert again.wait(60)
        restarted.ended.set()


def test_a_fault_hits_no_process_that_is_down(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes:
        testbed = Testbed(processes, SuperLink(processes), {})
        ended = short(processes)
        processes.finish(ended, seconds=60)
        testbed.sites[SITES[0]] = RestartedProcess(lambda: ended, ended)
        assert testbed.pids(Fault("site", SITES[0], "kill", "idle", 0.0)) == []
        assert testbed.pids(Fault("app", SITES[0], "kill", "idle", 0.0)) == []
        testbed.end()
        assert testbed.sites[SITES[0]].ended.is_set()


def test_a_fault_of_a_site_hits_its_process_and_one_of_its_app_the_child(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', "
        "'import time; time.sleep(600)', 'site_guard.app_process']); print(p.pid, flush=True); p.wait()"
    )
    with Processes(tmp_path) as processes:
        testbed = Testbed(processes, SuperLink(processes), {})
        site = processes.start("site", [sys.executable, "-c", code])
        processes.wait_for("its app", lambda: site.text.endswith("\n"), seconds=60)
        testbed.sites[SITES[0]] = RestartedProcess(lambda: site, site)
        assert testbed.pids(Fault("site", SITES[0], "kill", "idle", 0.0)) == [site.popen.pid]
        assert testbed.pids(Fault("app", SITES[0], "kill", "idle", 0.0)) == [int(site.text)]
