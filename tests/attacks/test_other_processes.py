"""The app can read and write the memory of neither the node nor the guard, in three ways.

By itself each of these is enough: both close their memory, Landlock confines the app, and the app
runs as a user of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from site_guard import landlock
from site_guard.app_user import AppUser
from tests.helpers.confined import folder_for_all, run_confined
from tests.helpers.tiny_app import confinement

ROOT = Path(__file__).parents[2]
PYTHON = "/usr/bin/python3"  # which other users can run
APP, NODE = 20001, 20002
# What the node does first, as `fedstrata node` and `fedstrata site` do.
VICTIM = f"""
import sys; sys.path.append({str(ROOT)!r})
from site_guard.own_process import close_memory
if sys.argv[1] == "closed":
    assert close_memory() == ""
print(flush=True)
input()
"""
ATTACK = """
import sys
try:
    with open(f"/proc/{sys.argv[1]}/mem", "r+b", buffering=0) as memory:
        print("opened")
except OSError as error:
    print(error.strerror)
"""
pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="as Linux does it"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can become other users"),
    pytest.mark.skipif(not Path(PYTHON).exists(), reason=f"there is no {PYTHON}"),
]


@contextmanager
def victim(user: int, *, closed: bool) -> Iterator[int]:
    command = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", PYTHON, "-c"]
    with subprocess.Popen(
        [*command, VICTIM, "closed" if closed else "open"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == b"\n"
        yield process.pid
        process.communicate(b"\n")


@pytest.fixture
def folder() -> Iterator[Path]:
    with folder_for_all() as made:
        (made / "tmp").mkdir()
        os.chown(made / "tmp", APP, APP)
        yield made


@pytest.mark.parametrize(
    ("closed", "landlocked", "node", "outcome"),
    [
        (False, False, APP, "opened"),  # the attack, as it worked
        (True, False, APP, "Permission denied"),
        (False, True, APP, "Permission denied"),
        (False, False, NODE, "Permission denied"),
    ],
)
def test_memory_of_the_node_is_closed_to_the_app(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    closed: bool,
    landlocked: bool,
    node: int,
    outcome: str,
) -> None:
    scope = Path("/proc/sys/kernel/yama/ptrace_scope")
    if outcome == "opened" and scope.exists() and scope.read_text().strip() != "0":
        pytest.skip("this machine's ptrace_scope closes it by itself")
    if landlocked and not landlock.kernel_version():
        pytest.skip("this kernel has no Landlock in force")
    if not landlocked:
        monkeypatch.setattr(landlock, "kernel_version", lambda: 0)
    app = AppUser("app", APP, APP, (APP,))
    made = confinement(folder, user=app, write=())
    with victim(node, closed=closed) as process:
        done = run_confined(made, ATTACK, str(process), python=PYTHON)
    assert done.stdout.strip() == outcome, done
