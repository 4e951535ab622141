"""A file is replaced as a whole, or left as it was."""

import threading
from pathlib import Path

import pytest

from fedstrata.support import durable


def test_the_new_file_takes_the_place_of_the_old(tmp_path: Path) -> None:
    path = tmp_path / "made" / "too" / "state.json"
    for text in ("first", "second"):
        with durable.replacing(path) as unfinished:
            unfinished.write_text(text)
        assert path.read_text() == text
    assert list(path.parent.iterdir()) == [path]


def test_a_block_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    path.write_text("old")

    def write_half() -> None:
        with durable.replacing(path) as unfinished:
            unfinished.write_text("half of the n")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_data_are_on_disk_before_the_file_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, done = tmp_path / "state.json", []
    monkeypatch.setattr(durable, "sync", lambda each: done.append((each, path.exists())))
    with durable.replacing(path) as unfinished:
        unfinished.write_text("new")
    assert done == [(unfinished, False), (tmp_path, True)]


def test_files_that_belong_together_are_waited_for_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[list[str]] = []

    def names() -> list[str]:
        return sorted(each.name for each in tmp_path.iterdir())

    monkeypatch.setattr(durable.os, "sync", lambda: waited.append(names()))
    monkeypatch.setattr(durable, "sync", lambda path: pytest.fail(f"waited for {path}"))
    with durable.reaching_disk_together():
        for name in ("a", "b"):
            with durable.replacing_private(tmp_path / name) as unfinished:
                unfinished.write_text(name)
            assert (tmp_path / name).read_text() == name
    with durable.reaching_disk_together():
        pass
    assert waited == [["a", "b"]]


def test_one_at_a_time_is_in_a_locked_folder(tmp_path: Path) -> None:
    within: list[int] = []

    def enter(number: int) -> None:
        with durable.locked_folder(tmp_path):
            within.append(number)

    with durable.locked_folder(tmp_path):
        other = threading.Thread(target=enter, args=(1,))
        other.start()
        other.join(0.2)
        within.append(0)
    other.join(10)
    assert within == [0, 1]
