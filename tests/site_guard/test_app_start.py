"""The app's process starts confined, or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fedstrata.support.errors import UserError
from site_guard import app_start, confinement
from site_guard.app_log import Allowance
from site_guard.app_start import start_app
from site_guard.guard import make_guard
from tests.helpers import tiny_app
from tests.helpers.tiny_app import ask, settings


def test_a_process_that_cannot_be_confined_is_ended(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    made = tiny_app.confinement(tmp_path, write=(tmp_path / "file" / "x",))
    with pytest.raises(UserError, match=r"cannot be started: .*Not a directory"):
        start_app(made, os.environ, Allowance())


def test_one_that_dies_or_hangs_before_it_is_confined_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tiny_app.confinement(tmp_path)
    monkeypatch.setattr(confinement, "_LAUNCHER", "import os; os.kill(os.getpid(), 9)")
    process: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def dead(*arguments: object, **named: object) -> subprocess.Popen[bytes]:
        process.append(popen(*arguments, **named))  # type: ignore[call-overload]
        process[0].wait()
        return process[0]

    with monkeypatch.context() as patched:
        patched.setattr(subprocess, "Popen", dead)
        with pytest.raises(UserError, match="ended with status -9 before it was confined"):
            start_app(made, os.environ, Allowance())
    monkeypatch.setattr(confinement, "_LAUNCHER", "import time; time.sleep(600)")
    monkeypatch.setattr(app_start, "_SECONDS", 0.2)
    with pytest.raises(UserError, match="not ready within"):
        start_app(made, os.environ, Allowance())


def test_the_server_learns_no_folder_from_it(
    tmp_path: Path, tiny: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    made = make_guard(settings(tmp_path))
    (tmp_path / "state").rmdir()
    (tmp_path / "state").write_text("")
    report = ask(made, tiny).error
    assert report == "the app's process cannot be started: see the site's log"
    assert f"{tmp_path / 'state'}: File exists" in caplog.text
    assert not list((tmp_path / "cache" / "bundles" / "a").iterdir())


def test_it_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    code = f"""if True:
        import os, pathlib
        from site_guard.app_log import Allowance
        from site_guard.app_start import start_app
        from site_guard.confinement import Confinement
        made = Confinement(pathlib.Path({str(tmp_path)!r}, "tmp"), pathlib.Path({str(tmp_path)!r}))
        print(start_app(made, os.environ, Allowance()).process.pid, flush=True)
        os._exit(0)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    left, since = Path(f"/proc/{int(done.stdout)}/status"), time.monotonic()
    while left.exists() and "zombie" not in left.read_text():
        assert time.monotonic() - since < 60
        time.sleep(0.1)
