"""Files with the same bytes share a number, and a file is read once a machine."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from client_app.data import file_digests
from client_app.data.file_digests import same_content
from fedstrata.support.errors import UserError


@pytest.fixture
def files(tmp_path) -> list[Path]:
    folder = tmp_path / "data"
    folder.mkdir()
    paths = []
    for name, content in {"a": b"one", "b": b"two", "c": b"one", "d": b"longer"}.items():
        (folder / name).write_bytes(content)
        os.utime(folder / name, (1, 1))
        paths.append(folder / name)
    return paths


@pytest.fixture
def read(monkeypatch) -> list[Path]:
    """Return the files that are read, and take new files for old ones."""
    seen: list[Path] = []
    digest = file_digests._digest

    def noted(path: Path) -> bytes:
        seen.append(path)
        return digest(path)

    monkeypatch.setattr(file_digests, "_digest", noted)
    monkeypatch.setattr(file_digests, "_RACY", -(1 << 62))
    return seen


def test_equal_files_share_a_number(files, read) -> None:
    assert same_content(files[0].parent, files, None).tolist() == [0, 1, 0, 3]
    assert files[3] not in read  # no other has its size


def test_a_file_is_read_once(files, read, tmp_path) -> None:
    cache = tmp_path / "cache"
    first = same_content(files[0].parent, files, cache)
    assert len(read) == 3
    assert same_content(files[0].parent, files, cache).tolist() == first.tolist()
    assert len(read) == 3
    files[1].write_bytes(b"one")
    assert same_content(files[0].parent, files, cache).tolist() == [0, 0, 0, 3]
    assert read[3:] == [files[1]]


def test_what_is_kept_names_no_file_and_is_private(files, read, tmp_path) -> None:
    same_content(files[0].parent, files, tmp_path / "cache")
    (kept,) = (tmp_path / "cache" / "digests").iterdir()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert b"data/" not in kept.read_bytes()


def test_damaged_digests_are_made_again(files, read, tmp_path) -> None:
    cache = tmp_path / "cache"
    expected = same_content(files[0].parent, files, cache).tolist()
    (kept,) = (cache / "digests").iterdir()
    kept.write_bytes(kept.read_bytes()[:-20])
    assert same_content(files[0].parent, files, cache).tolist() == expected
    assert len(read) == 6


def test_a_file_that_may_still_change_is_not_kept(files, tmp_path) -> None:
    cache = tmp_path / "cache"
    same_content(files[0].parent, files, cache)  # just written: their change time is now
    assert not list((cache / "digests").iterdir())


def test_a_missing_file_is_reported(tmp_path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        same_content(tmp_path, [tmp_path / "none"], None)


def test_a_cache_that_cannot_be_written_is_no_fault(files, tmp_path) -> None:
    (tmp_path / "cache").write_text("a file")
    assert same_content(files[0].parent, files, tmp_path / "cache").tolist() == [0, 1, 0, 3]
