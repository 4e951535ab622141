"""Nothing that the app starts outlives its process, not even a daemon in a session of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.system  # it starts the app again and again
# `fedstrata site` does the same: it adopts orphans, and says so to its warm process.
GUARD = """
import logging, sys
from pathlib import Path
from site_guard.guard import make_guard
from site_guard.own_process import adopt_orphans
from tests.helpers.tiny_app import ask, bundle, settings
import flwr.common.logger
folder = Path(sys.argv[1])
guard = make_guard(settings(folder, threads=1))
if sys.argv[2] == "protected":
    assert adopt_orphans() == ""
    guard.process.adopts = True
assert ask(guard, bundle(folder / "app"), "daemon").error == ""
guard.process.stop()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a process adopt")
@pytest.mark.parametrize("protected", [True, False])
def test_a_daemon_ends_with_the_apps_process(tmp_path: Path, protected: bool) -> None:
    done = subprocess.run(
        [sys.executable, "-c", GUARD, str(tmp_path), "protected" if protected else "as it was"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = re.search(r"the app \| daemon (\d+)", done.stderr + done.stdout)
    assert found, done
    daemon = int(found[1])
    if protected:
        with pytest.raises(ProcessLookupError):
            os.kill(daemon, 0)
    else:
        os.kill(daemon, signal.SIGKILL)
