"""No code of the app, or of who can write to the site's folders, runs before the network is gone.

Not a ``.pth`` file in site-packages, not a package in the working folder or on ``PYTHONPATH``, and
not a changed file of the guard's own package while the guard runs.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

from site_guard.guard import make_guard
from site_guard.no_network import KNOWN
from tests.helpers.confined import run_confined
from tests.helpers.tiny_app import ask, bundle, confinement, settings

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or os.uname().machine not in KNOWN, reason="there is no filter for it"
)
RAN = "code of the attacker ran"


@pytest.fixture
def port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize("protected", [True, False])
def test_a_pth_file_finds_no_network(tmp_path: Path, port: int, protected: bool) -> None:
    venv.create(tmp_path / "venv", symlinks=True)
    (packages,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    connect = f"import socket; socket.create_connection(('127.0.0.1', {port}), 5)"
    attack = f"try:\n {connect}\n print('sent the key')\nexcept OSError as e:\n print(e.strerror)"
    (packages / "zz.pth").write_text(f"import sys; exec({attack!r})\n")
    made = confinement(tmp_path, read=(tmp_path / "venv",), network=not protected)
    done = run_confined(made, "", python=str(tmp_path / "venv" / "bin" / "python"))
    expected = "Operation not permitted" if protected else "sent the key"
    assert set(done.stdout.splitlines()) == {expected}, done


def planted(folder: Path) -> Path:
    """Make packages that Python would import by itself, or that are called as ours are."""
    for name in ("sitecustomize", "usercustomize", "msgspec", "torch", "site_guard"):
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(f"print({RAN!r})\n")
    (folder / "site_guard" / "app_process.py").write_text("")
    return folder


def test_nothing_in_the_working_folder_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = planted(tmp_path / "writable")
    old = [sys.executable, "-m", "site_guard.app_process"]
    off = subprocess.run(old, cwd=folder, capture_output=True, text=True, check=False)
    assert RAN in off.stdout
    caplog.set_level("INFO")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setenv("PYTHONSTARTUP", str(folder / "torch" / "__init__.py"))
    made = make_guard(settings(tmp_path, threads=1))
    try:
        assert ask(made, bundle(tmp_path / "app"), "print I am here").error == ""
    finally:
        made.process.stop()
    assert "I am here" in caplog.text
    assert RAN not in caplog.text


def test_a_launcher_that_was_changed_meanwhile_is_not_used(tmp_path: Path) -> None:
    """The guard has its text since it started: nothing that the app overwrites is run by it."""
    made = make_guard(settings(tmp_path))
    command = made.process.confinement.command(["python"], 5)
    assert command[1:5] == ["-I", "-S", "-B", "-c"]
    assert "def confine" in command[5]
    assert not any(str(Path(__file__).parents[2]) in part for part in command[:6])
