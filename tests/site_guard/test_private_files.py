"""Files of the site's process: 0600 in folders 0700, whatever the umask."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from site_guard.private_files import make_folder, write_private


@pytest.fixture
def open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def test_nobody_else_may_read_them(tmp_path: Path, open_umask: None) -> None:
    folder = tmp_path / "guard" / "a"
    make_folder(folder)
    write_private(folder / "file", b"one")
    write_private(folder / "file", b"two")
    assert (folder / "file").read_bytes() == b"two"
    assert (folder / "file").stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in folder.iterdir()] == ["file"]


def test_a_folder_that_others_could_enter_is_closed(tmp_path: Path) -> None:
    (tmp_path / "guard").mkdir(mode=0o755)
    make_folder(tmp_path / "guard")
    assert (tmp_path / "guard").stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_what_the_administrator_writes_belongs_to_the_owner_of_the_folder(tmp_path: Path) -> None:
    make_folder(tmp_path / "guard")
    os.chown(tmp_path / "guard", 12345, 12345)
    write_private(tmp_path / "guard" / "file", b"")
    assert (tmp_path / "guard" / "file").stat().st_uid == 12345
