"""A file of tensors is the old or the new one, and a damaged one is refused by name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import safetensors.torch
import torch

from fedstrata.support.errors import UserError
from fedstrata.support.tensor_files import load, read_metadata, save

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1, 2])}


def test_tensors_and_metadata_come_back(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "x.safetensors"
    save(path, TENSORS, {"round": "3"})
    found, metadata = load(path)
    assert metadata == read_metadata(path) == {"round": "3"}
    assert found.keys() == TENSORS.keys()
    assert all(torch.equal(found[name], TENSORS[name]) for name in TENSORS)


def test_metadata_of_several_entries_give_equal_bytes(tmp_path: Path) -> None:
    files = set()
    for _ in range(20):  # safetensors would write them in any order
        save(tmp_path / "x", TENSORS, {"b": "1", "a": "2", "c": '"é\n'})
        files.add((tmp_path / "x").read_bytes())
    assert len(files) == 1
    assert load(tmp_path / "x")[1] == {"b": "1", "a": "2", "c": '"é\n'}


def test_only_the_tensors_asked_for_are_read(tmp_path: Path) -> None:
    save(tmp_path / "x", TENSORS, {})
    found, _ = load(tmp_path / "x", lambda name: name == "b")
    assert list(found) == ["b"]


def test_tied_tensors_are_each_written(tmp_path: Path) -> None:
    save(tmp_path / "x", {"a": TENSORS["a"], "tied": TENSORS["a"]}, {})
    found, _ = load(tmp_path / "x")
    assert torch.equal(found["tied"], TENSORS["a"])


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "x"
    save(path, TENSORS, {})
    before = path.read_bytes()
    with pytest.raises(ValueError, match="may not have an entry 'checksum'"):
        save(path, {}, {"checksum": "1"})
    with pytest.raises(OSError, match=r"(?i)not a directory|file exists"):
        save(path / "below", TENSORS, {})
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["x"]


def test_another_programs_file_is_none_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "x"
    safetensors.torch.save_file(TENSORS, path)
    with pytest.raises(UserError, match="fedstrata did not write it: there is no checksum"):
        load(path)


def test_only_the_user_may_read_a_file_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        save(tmp_path / "made" / "too" / "x", TENSORS, {})
    finally:
        os.umask(before)
    modes = {each.name: each.stat().st_mode & 0o777 for each in tmp_path.rglob("*")}
    assert modes == {"made": 0o700, "too": 0o700, "x": 0o600}


@pytest.mark.parametrize("data", [b"", b"1234", b"\xff" * 100])
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x"
    path.write_bytes(data)
    for read in (load, read_metadata):
        with pytest.raises(UserError, match=f"^{path} is damaged, or fedstrata did not write it"):
            read(path)
    with pytest.raises(UserError, match="gone does not exist"):
        load(tmp_path / "gone")


def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "w.safetensors"
    save(path, TENSORS, {})

    def fail(descriptor):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        save(path, {"w": torch.zeros(1)}, {})
    assert load(path)[0].keys() == TENSORS.keys()
    assert list(tmp_path.iterdir()) == [path]


def test_file_and_folder_are_on_disk_before_save_returns(tmp_path, monkeypatch):
    order = []
    sync, replace = os.fsync, type(tmp_path).replace
    monkeypatch.setattr(os, "fsync", lambda fd: order.append("sync") or sync(fd))
    monkeypatch.setattr(
        type(tmp_path), "replace", lambda *names: order.append("replace") or replace(*names)
    )
    save(tmp_path / "w.safetensors", TENSORS, {})
    assert order == ["sync", "replace", "sync"]
