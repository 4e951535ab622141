"""A health check sees whether the site's process still looks after its work."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fedstrata.support.errors import UserError
from site_guard import alive
from site_guard.main import site

ROOT = Path(__file__).resolve().parents[2]


def asked(path: Path) -> int:
    with pytest.raises(SystemExit) as ended:
        site(["--is-alive", str(path)])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_a_file_touched_lately_is_alive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "alive"
    assert asked(path) == 1
    monkeypatch.setattr(alive, "EVERY", 0.0)
    touch = alive.toucher(path)
    assert asked(path) == 0
    old = time.time() - 31
    os.utime(path, (old, old))
    assert asked(path) == 1
    touch()
    assert asked(path) == 0
    path.unlink()
    tmp_path.chmod(0o500)
    touch()
    tmp_path.chmod(0o700)


def test_a_file_that_cannot_be_made_is_told_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--alive"):
        alive.toucher(tmp_path / "no" / "alive")


def test_the_check_is_light(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom site_guard.main import site\n"
        f"try: site(['--is-alive', {str(tmp_path)!r}])\n"
        "except SystemExit as ended: assert ended.code == 0\n"
        "assert not {'flwr', 'torch', 'grpc', 'msgspec'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
