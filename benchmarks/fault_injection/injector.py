"""What waits for the phase of each fault, and lets it happen."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.fault_injection.plan import SITES, Fault
from benchmarks.fault_injection.testbed import Testbed
from benchmarks.flower.processes import Process
from benchmarks.flower.proxy import Proxy

AWAY = 4.0  # seconds that a process is paused or a line is cut
PATIENCE = 120.0  # seconds to wait for a phase


@dataclass
class Injector:
    """Lets faults happen to the testbed while the run ``name`` goes on, driven by ``run``."""

    testbed: Testbed
    run: Process
    name: str

    def inject(self, fault: Fault) -> bool:
        """Let a fault happen in its phase; return whether it hit a process."""
        if not self.await_phase(fault):
            return False
        time.sleep(fault.after)
        if fault.kind == "cut":
            lines = self.testbed.lines
            _cut([lines[fault.site]] if fault.site else list(lines.values()))
            return True
        pids = self.testbed.pids(fault)
        _signal(pids, signal.SIGKILL if fault.kind == "kill" else signal.SIGSTOP)
        if fault.kind == "pause":
            time.sleep(AWAY)
            _signal(pids, signal.SIGCONT)
        return bool(pids)

    def await_phase(self, fault: Fault) -> bool:
        """Wait for the next begin of a phase; return False where the run ended before."""
        site = fault.site or SITES[0]
        seen = self._count(fault.phase, site)
        deadline = time.monotonic() + PATIENCE
        while not self.run.ended and time.monotonic() < deadline:
            now = self._count(fault.phase, site)
            if now > seen:
                return True
            seen = min(seen, now)  # a process that was started again writes a new log
            time.sleep(0.01)
        return False

    def _count(self, phase: str, site: str) -> int:
        """Return how often a phase began so far, by the logs and the files."""
        if phase in ("idle", "checkpointing"):
            checkpoints = self.testbed.output / self.name / "checkpoints"
            # Until a checkpoint is whole, its name begins with a dot.
            pattern = "round-*" if phase == "idle" else "*round-*"
            return max((round_number(path.name) for path in checkpoints.glob(pattern)), default=0)
        if phase == "training":
            return self.testbed.sites[site].text.count(": train, round")
        words = {
            "receiving": "Receiving:",
            "replying": "Sending:",
            "aggregating": "Sent successfully",
        }
        return self.testbed.nodes[site].text.count(words[phase])


def round_number(name: str) -> int:
    """Return the number of ``round-000007``, wherever it is in a name; 0 where there is none."""
    found = re.search(r"round-(\d+)", name)
    return int(found[1]) if found else 0


def _cut(lines: Sequence[Proxy]) -> None:
    for line in lines:
        line.cut()
    time.sleep(AWAY)
    for line in lines:
        line.restore()


def _signal(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
