"""A health check sees whether the site's process still looks after its work."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from fedstrata.support.errors import UserError
from site_guard import alive


def test_a_file_touched_lately_counts_as_alive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "alive"
    assert not alive.is_alive(path)
    monkeypatch.setattr(alive, "EVERY", 0.0)
    touch = alive.make_toucher(path)
    assert alive.is_alive(path)
    old = time.time() - 31
    os.utime(path, (old, old))
    assert not alive.is_alive(path)
    touch()
    assert alive.is_alive(path)
    path.unlink()
    tmp_path.chmod(0o500)
    touch()
    tmp_path.chmod(0o700)


def test_a_file_that_cannot_be_made_is_an_error_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--alive"):
        alive.make_toucher(tmp_path / "no" / "alive")
