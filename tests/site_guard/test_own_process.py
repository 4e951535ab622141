"""The guard's own process: closed to its neighbors, and the parent of all that the app leaves."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from site_guard import own_process
from site_guard.own_process import descendants, missing_capabilities

linux = pytest.mark.skipif(sys.platform != "linux", reason="as Linux does it")
# A process that leaves three behind: a child, a daemon in a session of its own, and the daemon's.
LEAVES = """
import os, subprocess, sys, time
for daemon in (False, True, True):
    if os.fork() == 0:
        if daemon:
            os.setsid()
            if os.fork():
                os._exit(0)
        time.sleep(600)
"""
ADOPTS = f"""
import os, subprocess, sys, time
from site_guard.own_process import adopt_orphans, descendants, kill_descendants
assert adopt_orphans() == ""
left = subprocess.Popen([sys.executable, "-c", {LEAVES!r}])
left.wait()
while len(descendants(os.getpid())) < 3:
    time.sleep(0.01)
print(*descendants(os.getpid()))
print(kill_descendants(), descendants(os.getpid()))
"""


@linux
def test_daemons_are_adopted_and_killed() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ADOPTS], capture_output=True, text=True, timeout=60, check=False
    )
    ids, rest = done.stdout.splitlines()
    assert rest == "set() set()", done.stderr
    for process in map(int, ids.split()):
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)


@linux
def test_descendants_are_found_whatever_their_names() -> None:
    code = "open('/proc/self/comm', 'w').write('x) S 1 1'); print(flush=True); input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as child:  # type: ignore[call-overload]
        child.stdout.readline()
        assert child.pid in descendants(os.getpid())
        child.communicate(b"\n")


@linux
def test_capabilities_are_those_of_this_process() -> None:
    code = "from site_guard.own_process import missing_capabilities as m; print(*m())"
    if os.geteuid() != 0:
        assert missing_capabilities() == ["CAP_KILL", "CAP_SETGID", "CAP_SETUID"]
        return
    assert missing_capabilities() == []
    command = ["setpriv", "--bounding-set=-setuid", sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "CAP_SETUID\n", done.stderr


def test_other_systems_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert own_process.adopt_orphans() == "darwin has no such thing"
